//! Why an image can't be read, on its way to another process of the same program.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What is attempted where an image is read: an error has it as a text of the program.
const ATTEMPTS: [&str; 8] = [
    "opening",
    "reading",
    "seeking data in",
    "seeking holes in",
    "making a temporary file in",
    "sizing a temporary file in",
    "starting",
    "waiting for",
];

/// What has a limit in an image, likewise.
pub(super) const CHAIN: &str = "the backing chain of an image";

/// The errors that reading an image ends with. Paths are bytes: they need not be text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Io { attempt: String, path: Vec<u8>, errno: Option<i32>, text: String },
    Unsupported { path: Vec<u8>, reason: String, hint: String },
    InvalidSha256 { text: String },
    Mismatch { path: Vec<u8>, expected: String, found: String },
    DiskFull { path: Vec<u8>, free: u64, floor: u64 },
    Limit { limit: u64 },
    Interrupted,
    Bad { path: Vec<u8>, reason: String },
}

impl Failure {
    /// That of an error of reading the image at `image`.
    pub(super) fn of(error: &Error, image: &Path) -> Self {
        match error {
            Error::Io { attempt, path, source } => Self::Io {
                attempt: (*attempt).to_owned(),
                path: bytes(path),
                errno: source.raw_os_error(),
                text: source.to_string(),
            },
            Error::UnsupportedImage { path, reason, hint } => {
                Self::Unsupported { path: bytes(path), reason: reason.clone(), hint: hint.clone() }
            }
            Error::InvalidSha256 { text } => Self::InvalidSha256 { text: text.clone() },
            Error::Sha256Mismatch { path, expected, found } => {
                Self::Mismatch { path: bytes(path), expected: expected.clone(), found: found.clone() }
            }
            Error::DiskFull { path, free, floor } => Self::DiskFull { path: bytes(path), free: *free, floor: *floor },
            Error::Limit { limit, .. } => Self::Limit { limit: *limit },
            Error::Interrupted => Self::Interrupted,
            Error::BadImage { path, reason } => Self::Bad { path: bytes(path), reason: reason.clone() },
            // No others are known to come.
            error => Self::Bad { path: bytes(image), reason: error.to_string() },
        }
    }

    /// The error that it was.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Io { attempt, path, errno, text } => Error::Io {
                attempt: ATTEMPTS.into_iter().find(|known| *known == attempt).unwrap_or("reading"),
                path: path_of(path),
                source: errno.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error),
            },
            Self::Unsupported { path, reason, hint } => Error::UnsupportedImage { path: path_of(path), reason, hint },
            Self::InvalidSha256 { text } => Error::InvalidSha256 { text },
            Self::Mismatch { path, expected, found } => Error::Sha256Mismatch { path: path_of(path), expected, found },
            Self::DiskFull { path, free, floor } => Error::DiskFull { path: path_of(path), free, floor },
            Self::Limit { limit } => Error::Limit { what: CHAIN, limit },
            Self::Interrupted => Error::Interrupted,
            Self::Bad { path, reason } => Error::BadImage { path: path_of(path), reason },
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
