//! The form of `outcrop.json` and of the labels: JSON that checks itself.
//!
//! ```json
//! {"outcrop":"volume","format":1,"crc32c":"0a1b2c3d","content":{…}}
//! ```
//!
//! One line, ending in a newline. `crc32c` is over the bytes of `content` as they stand in the file, in hex.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::path::Path;

/// The version that this program writes, of all documents.
pub(crate) const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    outcrop: Cow<'a, str>,
    format: u32,
    #[serde(borrow)]
    crc32c: Cow<'a, str>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// What is asked of a document of any version: read first, since a newer one may have any other form.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// The bytes of a document of kind `kind`.
pub(crate) fn encode<T: Serialize>(path: &Path, kind: &str, content: &T) -> Result<Vec<u8>> {
    let failed = |e: serde_json::Error| Error::io("encoding", path, e);
    let content = serde_json::value::to_raw_value(content).map_err(failed)?;
    let crc32c = sum(content.get());
    let envelope = Envelope { outcrop: kind.into(), format: FORMAT, crc32c: crc32c.into(), content: &content };
    let mut bytes = serde_json::to_vec(&envelope).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a document back: `NewerFormat`, or `Damaged` with the reason if it is not whole or not of this kind.
pub(crate) fn decode<T: DeserializeOwned>(path: &Path, kind: &str, bytes: &[u8]) -> Result<T> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let Version { format } = serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not a document: {e}")))?;
    if format > FORMAT {
        return Err(Error::NewerFormat { path: path.to_owned(), found: format, supported: FORMAT });
    }
    if format == 0 {
        return Err(damaged("there is no format version 0".to_owned()));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not a document: {e}")))?;
    if envelope.outcrop != kind {
        return Err(damaged(format!("it is of kind '{}', not '{kind}'", envelope.outcrop)));
    }
    let found = sum(envelope.content.get());
    if envelope.crc32c != found {
        return Err(damaged(format!("its checksum is {found}, but it says {}", envelope.crc32c)));
    }
    serde_json::from_str(envelope.content.get())
        .map_err(|e| damaged(format!("its content is not what version {format} has: {e}")))
}

fn sum(content: &str) -> String {
    format!("{:08x}", crc32c::crc32c(content.as_bytes()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let path = Path::new("x");
        let bytes = encode(path, "volume", &vec!["a", "b"]).unwrap();
        assert_eq!(decode::<Vec<String>>(path, "volume", &bytes).unwrap(), ["a", "b"]);
        for at in 0..bytes.len() - 1 {
            assert!(decode::<Vec<String>>(path, "volume", &bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(decode::<Vec<String>>(path, "volume", &bad).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(matches!(decode::<Vec<String>>(path, "image", &bytes), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_newer_version_is_told_whatever_it_looks_like() {
        let newer = br#"{"format":7,"other":[1,2]}"#;
        assert!(matches!(decode::<u8>(Path::new("x"), "volume", newer), Err(Error::NewerFormat { found: 7, supported: 1, .. })));
    }
}
