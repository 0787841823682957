//! A qcow2 image with the files under it: opened under the policy, and checked.

use super::super::Progress;
use super::super::convert;
use super::super::failure::CHAIN;
use super::super::format::Format;
use super::super::input::{Input, Policy, Role};
use super::super::source::bad;
use super::header::Header;
use super::tables;
use crate::error::{Error, Result};
use std::path::Path;

/// The longest backing chain, in files. While it is read, each has up to 128 L2 tables (of a cluster) in memory.
pub(in crate::image) const DEPTH_MAX: usize = 64;

/// One qcow2 file of a chain.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) header: Header,
    pub(super) input: Input,
    pub(super) data: Option<Input>,
}

/// An image and all that it stands on. Everything in it has been checked.
#[derive(Debug)]
pub(in crate::image) struct Chain {
    /// The image itself first.
    pub(super) layers: Vec<Layer>,
    /// The raw file under the last of them.
    pub(super) raw: Option<Input>,
}

impl Chain {
    /// Opens what the qcow2 file `top` stands on.
    pub(in crate::image) fn open(top: Input, policy: &Policy, progress: &dyn Progress) -> Result<Self> {
        let mut chain = Self { layers: Vec::new(), raw: None };
        let mut seen = vec![top.identity()];
        let mut next = Some(top);
        while let Some(input) = next.take() {
            let header = Header::read(&input)?;
            let mut follow = |role, name: &str| {
                let file = policy.open(role, name, input.path())?;
                if seen.contains(&file.identity()) {
                    return Err(bad(input.path(), format!("it stands on itself, by way of {}", file.path().display())));
                }
                seen.push(file.identity());
                Ok(file)
            };
            let data = header.data_file.as_ref().map(|name| follow(Role::Data, name)).transpose()?;
            tables::check(&header, &input, data.as_ref(), progress)?;
            if let Some(name) = &header.backing {
                let backing = follow(Role::Backing, name)?;
                match backing_format(&header, &backing, &input)? {
                    Format::Qcow2 => next = Some(backing),
                    Format::Raw => chain.raw = Some(backing),
                    Format::Foreign(format) => {
                        return Err(Error::UnsupportedImage {
                            path: backing.path().to_owned(),
                            reason: format!("it is a backing file of the format {format}"),
                            hint: format!("convert '{}' first, with 'qemu-img convert -O qcow2'", input.path().display()),
                        });
                    }
                }
            }
            chain.layers.push(Layer { header, input, data });
            if next.is_some() && chain.layers.len() == DEPTH_MAX {
                return Err(Error::Limit { what: CHAIN, limit: DEPTH_MAX as u64 });
            }
        }
        Ok(chain)
    }

    /// The path of the image itself.
    pub(in crate::image) fn path(&self) -> &Path {
        self.layers.first().map_or(Path::new(""), |layer| layer.input.path())
    }

    /// Virtual size in bytes.
    pub(in crate::image) fn size(&self) -> u64 {
        self.layers.first().map_or(0, |layer| layer.header.size)
    }

    /// Why it can only be read by qemu-img, if so.
    pub(in crate::image) fn needs_qemu(&self) -> Option<&'static str> {
        self.layers.iter().find_map(|layer| layer.header.needs_qemu())
    }

    /// The image as a block device of qemu, every file of it named by descriptor, so that no name in a header is
    /// followed.
    pub(in crate::image) fn for_qemu(&self) -> serde_json::Value {
        let mut node = self.raw.as_ref().map(|raw| convert::node("raw", raw));
        for layer in self.layers.iter().rev() {
            let mut over = convert::node("qcow2", &layer.input);
            over["backing"] = node.take().unwrap_or(serde_json::Value::Null);
            if let Some(data) = &layer.data {
                over["data-file"] = convert::node("raw", data);
            }
            node = Some(over);
        }
        node.unwrap_or(serde_json::Value::Null)
    }

    /// Fails if a file of the chain has changed since it was opened.
    pub(in crate::image) fn check_unchanged(&self) -> Result<()> {
        let files = self.layers.iter().flat_map(|layer| std::iter::once(&layer.input).chain(&layer.data)).chain(&self.raw);
        files.into_iter().try_for_each(Input::check_unchanged)
    }
}

/// The format that the overlay's header gives, else what the backing file looks like.
fn backing_format(header: &Header, backing: &Input, overlay: &Input) -> Result<Format> {
    match header.backing_format.as_deref() {
        Some("qcow2") => Ok(Format::Qcow2),
        // The last two are qemu's names for a raw file by way of its protocol.
        Some("raw" | "file" | "host_device") => Ok(Format::Raw),
        None | Some("") => Format::probe(backing),
        Some(other) => Err(Error::UnsupportedImage {
            path: overlay.path().to_owned(),
            reason: format!("its backing file has the format '{}'", crate::name::escape(other.as_bytes())),
            hint: "convert it first, with 'qemu-img convert -O qcow2'".to_owned(),
        }),
    }
}
