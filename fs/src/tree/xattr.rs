//! Extended attributes: read-only ones that show what a file is made of.

use super::node::What;
use super::{Result, Tree, errno};
use rustix::io::Errno;

/// What the names of all of them begin with.
pub(crate) const PREFIX: &str = "user.outcrop.";

impl Tree {
    /// The names and values of an inode's attributes.
    pub(crate) fn extended(&self, ino: u64) -> Result<Vec<(String, Vec<u8>)>> {
        let mut list = Vec::new();
        let mut add = |name: &str, value: String| list.push((format!("{PREFIX}{name}"), value.into_bytes()));
        match self.resolve(ino)? {
            What::Volume(id) => {
                add("id", id.to_string());
                let volume = self.volume_of(ino)?;
                let info = self.store.volume_info(&volume.name()).ok().filter(|info| info.id == id);
                // Deleted while open, it has no more than its id.
                if let Some(info) = info {
                    let layers: Vec<String> = info.layers.iter().map(ToString::to_string).collect();
                    add("layers", layers.join(" "));
                    add("snapshots", info.snapshots.to_string());
                    if let Some(image) = info.image {
                        add("image", image.to_string());
                    }
                }
            }
            What::Snapshot { set, volume_name } => {
                let info = self.store.snapshot_info(&set, &volume_name).map_err(errno)?;
                add("id", info.volume.to_string());
                add("layers", info.layer.to_string());
                add("snapshot", info.name.to_string());
                for (key, value) in info.labels {
                    add(&format!("label.{key}"), value);
                }
            }
            What::Root => add("store", self.store.id().to_string()),
            What::Snapshots | What::Set(_) => {}
        }
        Ok(list)
    }

    /// One of them.
    pub(crate) fn extended_value(&self, ino: u64, name: &str) -> Result<Vec<u8>> {
        let found = self.extended(ino)?.into_iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value).ok_or(Errno::NODATA)
    }

    /// The disk's truth.
    pub(crate) fn space(&self) -> Result<outcrop_store::Space> {
        self.store.space().map_err(errno)
    }
}
