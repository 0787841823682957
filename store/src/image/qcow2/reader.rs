//! Reading a checked chain through imago.

use super::super::source::{Extent, ExtentKind, Source, bad};
use super::chain::Chain;
use crate::error::{Error, Result};
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A qcow2 image, with all that it stands on.
pub(in crate::image) struct Qcow2Source {
    chain: Chain,
    image: FormatAccess<File>,
}

impl Qcow2Source {
    /// Opens a chain that needs no qemu. imago gets the descriptors that were checked, and may open nothing.
    pub(in crate::image) fn new(chain: Chain) -> Result<Self> {
        let mut image = None;
        if let Some(raw) = &chain.raw {
            let open = || Ok(FormatAccess::new(Raw::open_image(storage(raw.file())?, false)?));
            image = Some(guarded(raw.path(), open)?);
        }
        for layer in chain.layers.iter().rev() {
            let backing = image.take();
            let open = || {
                let data = layer.data.as_ref().map(|data| storage(data.file())).transpose()?;
                let builder = Qcow2::<File>::builder(storage(layer.input.file())?).backing(backing).data_file(data);
                Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
            };
            image = Some(guarded(layer.input.path(), open)?);
        }
        match image {
            Some(image) if image.size() == chain.size() => Ok(Self { chain, image }),
            // It changed under us, between the two readings of the header.
            _ => Err(bad(chain.path(), "it was written to while it was opened")),
        }
    }
}

fn storage(file: &std::fs::File) -> io::Result<File> {
    file.try_clone()?.try_into()
}

/// Calls imago. What it says is wrong with the image, or its panic, is a refusal of the image.
fn guarded<T>(path: &Path, call: impl FnOnce() -> io::Result<T>) -> Result<T> {
    // After a panic the image is dropped, so nothing broken in it is seen.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) if e.raw_os_error().is_some() => Err(Error::io("reading", path, e)),
        Ok(Err(e)) => Err(bad(path, format!("it can't be read: {e}"))),
        Err(_) => Err(bad(path, "it is damaged in a way that its reader has no answer for")),
    }
}

impl Source for Qcow2Source {
    fn size(&self) -> u64 {
        self.chain.size()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent> {
        let rest = self.size() - offset;
        let (kind, length) = guarded(self.chain.path(), || {
            let (mapping, length) = self.image.get_mapping(offset, rest)?;
            let kind = match mapping {
                Mapping::Zero { .. } | Mapping::Eof { .. } => ExtentKind::Hole,
                // A raw backing file's holes are in here.
                _ => ExtentKind::Data,
            };
            Ok((kind, length))
        })?;
        if length == 0 || length > rest {
            return Err(bad(self.chain.path(), format!("it can't be read: it ends at byte {offset}, before its size")));
        }
        Ok(Extent { kind, length })
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        guarded(self.chain.path(), || self.image.read(buf, offset))
    }

    fn check_unchanged(&self) -> Result<()> {
        self.chain.check_unchanged()
    }
}
