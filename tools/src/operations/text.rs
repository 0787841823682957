//! Paths in JSON: as a string where they are UTF-8, else as their bytes, so that every path gets through.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One path.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for Form {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<Form> for PathBuf {
    fn from(form: Form) -> Self {
        match form {
            Form::Text(text) => PathBuf::from(text),
            Form::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }
    }
}

/// For `#[serde(with)]` on a path.
pub mod path {
    use super::Form;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::path::{Path, PathBuf};

    /// Writes it.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        Form::from(path).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Form::deserialize(deserializer).map(PathBuf::from)
    }
}

/// For `#[serde(with)]` on a list of paths.
pub mod paths {
    use super::Form;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::path::PathBuf;

    /// Writes them.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| Form::from(path.as_path())))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Form>::deserialize(deserializer)?.into_iter().map(PathBuf::from).collect())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use crate::operations::Request;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    #[test]
    fn every_path_gets_through() {
        for bytes in [&b"/plain"[..], "/größe".as_bytes(), b"/\xff\xfe"] {
            let path = PathBuf::from(OsStr::from_bytes(bytes));
            let request = Request::ImageImport {
                name: outcrop_store::Name::new("x").unwrap(),
                path: path.clone(),
                sha256: None,
                allow_backing_in: vec![path.clone()],
            };
            let json = serde_json::to_string(&request).unwrap();
            match serde_json::from_str(&json).unwrap() {
                Request::ImageImport { path: read, allow_backing_in, .. } => {
                    assert_eq!(read, path);
                    assert_eq!(allow_backing_in, [path]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
