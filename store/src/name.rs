//! Names of volumes, snapshots and images: what a file may be called.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The longest name, in bytes, as on ext4.
pub const NAME_MAX: usize = 255;

/// The directory of snapshots in a mount: no volume can have this name.
pub const SNAPSHOTS_DIR: &str = ".snapshots";

/// A name: any file name of 1 to 255 bytes, but not `.`, `..` or `.snapshots`.
///
/// Shown (in tables, JSON and labels) as text: a backslash is `\\`, and control characters and bytes that are
/// not UTF-8 are `\xNN`. That form is exact: [`Name::parse`] gives the same bytes back.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Takes the bytes of a file name.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        let refuse = |reason| Err(Error::InvalidName { name: escape(bytes), reason });
        if bytes.is_empty() {
            return refuse("it is empty");
        }
        if bytes.len() > NAME_MAX {
            return Err(Error::NameTooLong { length: bytes.len(), limit: NAME_MAX });
        }
        if bytes.contains(&b'/') {
            return refuse("it contains a '/'");
        }
        if bytes.contains(&0) {
            return refuse("it contains a NUL byte");
        }
        if bytes == b"." || bytes == b".." {
            return refuse("'.' and '..' are directories");
        }
        if bytes == SNAPSHOTS_DIR.as_bytes() {
            return refuse("'.snapshots' is the directory of snapshots");
        }
        Ok(Self(bytes.into()))
    }

    /// Reads the shown form back.
    pub fn parse(text: &str) -> Result<Self> {
        Self::new(unescape(text).ok_or_else(|| Error::InvalidName {
            name: text.to_owned(),
            reason: "a backslash must be written '\\\\', and other bytes '\\xNN'",
        })?)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the system's calls take it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// Text form of any bytes, printable on one line.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        out.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => out.push(c),
            }
        }
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => return None,
        }
    }
    Some(out)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(&self.0))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Name::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_file_can_be_called() {
        for bad in [&b""[..], b".", b"..", b".snapshots", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert!(Name::new([b'x'; 255]).is_ok());
    }

    #[test]
    fn shown_form_is_exact() {
        for raw in [&b"plain"[..], "größe".as_bytes(), b"a\\b", b"new\nline", b"\xff\xfe", b"\\x41", "\u{85}".as_bytes()] {
            let name = Name::new(raw).unwrap();
            assert_eq!(Name::parse(&name.to_string()).unwrap().as_bytes(), raw);
            assert!(!name.to_string().contains('\n'));
        }
    }
}
