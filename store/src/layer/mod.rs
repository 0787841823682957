//! A layer: a set of blocks with a parent, in one directory of a disk.
//!
//! Below it is the disk; above it the chain. `map` knows the states, `data` has the bytes, and while the layer is a
//! head, `pending` has the marks that no flush has made durable yet. Once it is sealed, `sums` gets what its blocks are
//! compared with when they are read.

pub(crate) mod check;
mod data;
mod flush;
pub(crate) mod head;
mod header;
mod map;
mod marks;
mod pending;
mod ranges;
mod record;
mod scan;
mod shrink;
pub(crate) mod states;
pub(crate) mod sums;
mod writer;

pub(crate) use data::Data;
pub(crate) use head::Head;
pub(crate) use header::Header;
pub(crate) use scan::Scan;
pub(crate) use sums::{Sums, SumsCache};
pub(crate) use writer::LayerWriter;

use crate::disk::{Disk, durable};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use map::Map;
use parking_lot::Mutex;
use pending::{Left, Pending};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sums::SumsFile;

/// A layer whose files can be used.
pub(crate) struct Layer {
    pub id: LayerId,
    pub dir: PathBuf,
    pub disk: Arc<Disk>,
    pub map: Map,
    pub data: Data,
    sums: SumsFile,
    header: Mutex<Header>,
}

/// What a new head starts with.
#[derive(Debug, Clone)]
pub(crate) struct NewLayer {
    pub id: LayerId,
    pub parent: Option<LayerId>,
    /// Bytes; also the layer's floor.
    pub size: u64,
    /// Blocks that the parent's chain shows as data.
    pub data_blocks: u64,
    /// Whether `data_blocks` has to be counted again.
    pub inexact: bool,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// Makes an empty layer: durable on return. A crash on the way leaves a directory that the operation's label names; an
/// error leaves nothing.
pub(crate) fn create(disk: &Disk, new: &NewLayer) -> Result<()> {
    let dir = disk.layer_dir(new.id);
    durable::make_dir(&dir)?;
    fill(disk, new, &dir).inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&dir);
    })
}

fn fill(disk: &Disk, new: &NewLayer, dir: &Path) -> Result<()> {
    let header = Header {
        store: disk.store,
        layer: new.id,
        parent: new.parent,
        revision: 0,
        sequence: 0,
        flush: 0,
        size: new.size,
        floor: new.size,
        data_blocks: new.data_blocks,
        atime_ns: new.atime_ns,
        mtime_ns: new.mtime_ns,
        ctime_ns: new.ctime_ns,
        sealed: false,
        trim: false,
        inexact: new.inexact,
        summed: false,
    };
    for (name, content) in [("data.0", &[][..]), ("map", &header.encode())] {
        let path = dir.join(name);
        let made = std::fs::File::create_new(&path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, content)?;
            file.sync_all()
        });
        made.map_err(|e| Error::io("making", &path, e))?;
    }
    durable::sync_dir(dir)
}

/// Removes a layer's files, whatever of them is left: durable on return.
pub(crate) fn remove(disk: &Disk, id: LayerId) -> Result<()> {
    durable::remove_tree(&disk.layer_dir(id)).map(drop)
}

/// Bytes of disk that a layer's files take.
pub(crate) fn allocated(disk: &Disk, id: LayerId) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(disk.layer_dir(id)) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// The header of a layer, without opening it for use.
pub(crate) fn read_header(disk: &Arc<Disk>, id: LayerId) -> Result<Header> {
    Layer::open(disk, id).map(|layer| layer.header())
}

/// Whether a flush of this head failed, and nobody has cleared that.
pub(crate) fn is_faulted(disk: &Disk, id: LayerId) -> Result<bool> {
    Ok(Pending::read(&disk.layer_dir(id), id)? == Left::Fault)
}

/// Whether a process that ends now leaves this head as one that was not closed.
#[cfg(test)]
pub(crate) fn head_was_left_open(dir: &Path, id: LayerId) -> Result<bool> {
    Ok(matches!(Pending::read(dir, id)?, Left::Entries(_)))
}

/// Leaves a failed flush's mark in a layer's directory, as power loss may bring one back after it was removed.
#[cfg(test)]
pub(crate) fn leave_fault(layer: &Layer) -> Result<()> {
    Pending::create(&layer.dir, layer.id).map(|mut pending| pending.fault())
}

/// Forgets a failed flush of a head (whether that could be recorded or not): it goes on from what its last good flush
/// made durable.
pub(crate) fn clear_fault(layer: &Layer) -> Result<()> {
    layer.rewrite_map()?;
    // What the fault's process left is not believed: an open after this is as after power loss.
    Pending::create(&layer.dir, layer.id)?.disown()?;
    durable::sync_dir(&layer.dir)
}

impl Layer {
    /// Opens a layer's map and reads its header.
    pub fn open(disk: &Arc<Disk>, id: LayerId) -> Result<Arc<Self>> {
        let dir = disk.layer_dir(id);
        let map_path = dir.join("map");
        if !map_path.exists() {
            return Err(Error::LayerMissing { layer: id });
        }
        let map = Map::new(id, disk.files.slot(map_path));
        let header = map.read_header()?;
        let sums = SumsFile::new(disk, id);
        Ok(Arc::new(Self { id, dir, disk: Arc::clone(disk), map, data: Data::new(disk, id), sums, header: Mutex::new(header) }))
    }

    /// The sums of its blocks.
    pub fn sums(&self) -> Sums<'_> {
        Sums::new(self, &self.sums)
    }

    /// The header as it was last read or written.
    pub fn header(&self) -> Header {
        self.header.lock().clone()
    }

    /// Writes a changed header. Durable after a sync of the map.
    pub fn write_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let mut header = self.header.lock();
        let mut next = header.clone();
        change(&mut next);
        next.sequence += 1;
        self.map.write_header(&next)?;
        *header = next;
        Ok(())
    }

    /// Says that nothing is written to this layer any more: durable on return. Everything in it is durable already.
    pub fn seal(&self) -> Result<()> {
        if !self.header().sealed {
            self.write_header(|header| header.sealed = true)?;
            self.map.sync()?;
            Pending::remove(&self.dir)?;
            self.map.slot().unpin();
            self.data.unpin();
        }
        Ok(())
    }

    /// Writes what the map shows once more, durably. After a failed write-back the page cache can show records that never
    /// reached the disk and that nobody would write again: they would be gone when it forgets them.
    pub fn rewrite_map(&self) -> Result<()> {
        let mut next = self.map.next_written(0)?;
        while let Some(chunk) = next {
            let index = chunk / record::RECORD_CHUNKS;
            let record = self.map.read_record(index)?;
            self.map.write_record(index, &record)?;
            next = self.map.next_written((index + 1) * record::RECORD_CHUNKS)?;
        }
        // Twice, so that neither slot of the header is one that only memory has.
        self.write_header(|_| {})?;
        self.write_header(|_| {})?;
        self.map.sync()
    }

    /// Changes states of a sealed layer, durably. `change` is given the states of each of `chunks`, which ascend.
    pub fn change_states(&self, chunks: &[u64], mut change: impl FnMut(u64, &mut states::ChunkStates)) -> Result<()> {
        let flush = self.header().flush + 1;
        for together in chunks.chunk_by(|a, b| a / record::RECORD_CHUNKS == b / record::RECORD_CHUNKS) {
            let index = together[0] / record::RECORD_CHUNKS;
            self.disk.with_reserve(|| self.map.allocate(index / map::PAGE_RECORDS))?;
            let mut record = self.map.read_record(index)?;
            record.flush = flush;
            for chunk in together {
                change(*chunk, &mut record.chunks[(chunk % record::RECORD_CHUNKS) as usize]);
            }
            self.map.write_record(index, &record)?;
        }
        self.write_header(|header| header.flush = flush)?;
        self.map.sync()
    }

    /// Removes what a sealed layer has of a time when it was a head, durably: before it is one again.
    pub fn forget_marks(&self) -> Result<()> {
        Pending::remove(&self.dir)?;
        durable::sync_dir(&self.dir)
    }

    /// Lets a sealed layer's files be closed: all that was written to them is durable.
    pub fn release(&self) {
        self.map.slot().unpin();
        self.data.unpin();
    }

    /// Blocks in state data in this layer alone: reads its map.
    pub fn count_data(&self) -> Result<u64> {
        let mut blocks = 0;
        let mut next = self.map.next_written(0)?;
        while let Some(chunk) = next {
            blocks += self.map.read_chunk(chunk)?.count_data();
            next = self.map.next_written(chunk + 1)?;
        }
        Ok(blocks)
    }
}
