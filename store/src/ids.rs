//! Identities: a newtype each, so that a layer can't be taken for a volume.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new one, ordered by time of making (UUID version 7).
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes, as they stand in files.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// From the 16 bytes of a file.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> {
                // Only the hyphenated form: it is what file names hold, and one name per id is wanted.
                let id = Uuid::try_parse(s)?;
                if s.len() == 36 { Ok(Self(id)) } else { Uuid::try_parse("not hyphenated").map(Self) }
            }
        }
    };
}

id! {
    /// A store.
    StoreId
}
id! {
    /// A disk: one directory of a store.
    DiskId
}
id! {
    /// A layer.
    LayerId
}
id! {
    /// A volume, whatever its name is at the moment.
    VolumeId
}
id! {
    /// A backing image.
    ImageId
}
id! {
    /// A schedule, whatever becomes of its name.
    ScheduleId
}
id! {
    /// One change of metadata, named by all the labels that take part in it.
    OperationId
}
