//! One import: the image opened and checked, its content copied and compared with what was expected.

use super::convert::{ConvertedSource, Original, Workshop};
use super::copy::{BlockSink, copy};
use super::format::Format;
use super::input::{Input, Policy};
use super::qcow2::{Chain, Qcow2Source};
use super::raw::RawSource;
use super::source::Source;
use super::{ImportOptions, Progress};
use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// An image's content, on its way into a layer.
pub(crate) trait Content {
    /// Virtual size in bytes.
    fn size(&self) -> u64;

    /// The format, as qemu calls it.
    fn format(&self) -> &str;

    /// Copies the content to `sink`; gives its SHA-256 in hex, which is the expected one.
    fn copy_to(&mut self, sink: &mut dyn BlockSink, progress: &dyn Progress) -> Result<String>;
}

/// An image file that passed its checks.
pub(crate) struct OpenImage {
    path: PathBuf,
    source: Box<dyn Source>,
    format: &'static str,
    expected: Option<String>,
}

impl OpenImage {
    /// Opens the image file `path`, checks it, and converts it if it has to be.
    pub(crate) fn open(path: &Path, options: &ImportOptions, workshop: &Workshop, progress: &dyn Progress) -> Result<Self> {
        let expected = options.sha256.as_deref().map(checked_sha256).transpose()?;
        let input = Input::open(path)?;
        // Before anything is asked of its content: nothing has the size of nothing.
        if input.length() == 0 {
            input.check_virtual_size(0)?;
        }
        let format = Format::probe(&input)?;
        let source: Box<dyn Source> = match format {
            Format::Raw => Box::new(RawSource::new(input)?),
            Format::Qcow2 => {
                let chain = Chain::open(input, &Policy::new(path, &options.allow_backing_in)?, progress)?;
                match chain.needs_qemu() {
                    None => Box::new(Qcow2Source::new(chain)?),
                    Some(_) => Box::new(ConvertedSource::new(Original::Chain(chain), workshop, progress)?),
                }
            }
            Format::Foreign(name) => Box::new(ConvertedSource::new(Original::Foreign(name, input), workshop, progress)?),
        };
        Ok(Self { path: path.to_owned(), source, format: format.name(), expected })
    }
}

impl Content for OpenImage {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn format(&self) -> &str {
        self.format
    }

    fn copy_to(&mut self, sink: &mut dyn BlockSink, progress: &dyn Progress) -> Result<String> {
        let found = hex(&copy(self.source.as_mut(), sink, progress)?);
        match &self.expected {
            Some(expected) if *expected != found => {
                Err(Error::Sha256Mismatch { path: self.path.clone(), expected: expected.clone(), found })
            }
            _ => Ok(found),
        }
    }
}

/// A checksum as text.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Takes 64 hex digits, of any case.
fn checked_sha256(text: &str) -> Result<String> {
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::InvalidSha256 { text: crate::name::escape(text.as_bytes()) });
    }
    Ok(text.to_ascii_lowercase())
}
