//! qcow2, written from its first byte to its last, so that it goes into a pipe as well as into a file.
//!
//! The kept library that writes qcow2 (imago) fills a file at random offsets, cluster by cluster as a virtual disk is
//! written, and can't write to a pipe. Here all clusters with data are known beforehand, from the maps.

use super::Sink;
use super::layout::{CLUSTER, Clusters, Layout};
use crate::error::{Error, Result};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A qcow2 file (version 3, clusters of 64 KiB, no backing file) of the clusters that have data. The size is rounded up
/// to whole sectors of 512 bytes, as qemu wants it.
pub struct Qcow2<W> {
    out: W,
    path: PathBuf,
    clusters: Clusters,
    size: u64,
    /// The cluster that is being filled, and its bytes.
    filling: Option<u64>,
    buffer: Vec<u8>,
    /// Clusters of data that were written.
    written: u64,
    sync: fn(&mut W) -> std::io::Result<()>,
}

impl<W: Write> Qcow2<W> {
    /// Over anything that is written in order; `path` is for messages. `sync` is called at the end.
    pub fn new(out: W, path: &Path, sync: fn(&mut W) -> std::io::Result<()>) -> Self {
        Self {
            out,
            path: path.to_owned(),
            clusters: Clusters::new(0),
            size: 0,
            filling: None,
            buffer: vec![0; CLUSTER as usize],
            written: 0,
            sync,
        }
    }

    /// Writes the cluster that is being filled.
    fn complete(&mut self) -> Result<()> {
        if self.filling.take().is_some() {
            self.written += 1;
            put(&mut self.out, &self.path, &self.buffer)?;
            self.buffer.fill(0);
        }
        Ok(())
    }

    fn broken(&self, reason: &'static str) -> Error {
        Error::io("writing", &self.path, std::io::Error::other(reason))
    }
}

impl<W: Write> Sink for Qcow2<W> {
    fn begin(&mut self, size: u64) -> Result<()> {
        (self.size, self.clusters) = (size, Clusters::new(size));
        Ok(())
    }

    fn map(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        for range in ranges {
            for cluster in range.start / CLUSTER..range.end.div_ceil(CLUSTER) {
                if !self.clusters.set(cluster) {
                    return Err(self.broken("data lies beyond the end of the disk"));
                }
            }
        }
        Ok(())
    }

    fn map_done(&mut self) -> Result<()> {
        let layout = Layout::new(self.size, &self.clusters);
        let (out, path) = (&mut self.out, &self.path);
        let mut put = |bytes: &[u8]| put(out, path, bytes);
        put(&layout.header())?;
        layout.refcounts(&mut put)?;
        layout.tables(&self.clusters, &mut put)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let cluster = at / CLUSTER;
            let inside = (at % CLUSTER) as usize;
            if self.filling != Some(cluster) {
                // The tables say already where it is: out of order, the file would be wrong.
                if self.filling.is_some_and(|before| before > cluster) || !self.clusters.has(cluster) {
                    return Err(self.broken("data came that the map did not tell of"));
                }
                self.complete()?;
                self.filling = Some(cluster);
            }
            let length = rest.len().min(CLUSTER as usize - inside);
            self.buffer[inside..inside + length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
            at += length as u64;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.complete()?;
        if self.written != self.clusters.count {
            return Err(self.broken("data is missing that the map told of"));
        }
        let done = self.out.flush().and_then(|()| (self.sync)(&mut self.out));
        done.map_err(|e| Error::io("syncing", &self.path, e))
    }
}

fn put(out: &mut impl Write, path: &Path, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|e| Error::io("writing", path, e))
}
