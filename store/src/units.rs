//! Sizes that the formats are made of.

/// Bytes in a block, the unit in which a layer knows a state.
pub const BLOCK_SIZE: u64 = 4096;

/// The largest volume, in bytes: 64 TiB.
pub const MAX_VOLUME_SIZE: u64 = 64 << 40;

/// The longest chain, in layers (the head and the image counted).
pub const MAX_LAYERS: usize = 4096;

/// The most snapshots of one volume, all branches counted.
pub const MAX_SNAPSHOTS: u64 = 8192;

/// The most volumes of a store, headless ones counted.
pub const MAX_VOLUMES: usize = 65536;

/// The most things that are kept for undo: beyond it the oldest go.
pub const MAX_REMOVED: usize = 16384;

/// Blocks whose resolution is cached together: 2 MiB of a volume.
pub(crate) const CHUNK_BLOCKS: u64 = 512;

/// Bytes of a data segment: layers larger than this have several `data.N` (ext4 ends at 16 TiB a file).
pub(crate) const SEGMENT_SIZE: u64 = 1 << 40;

/// Blocks that `size` bytes touch.
pub(crate) const fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK_SIZE)
}

/// A block of zeros.
pub(crate) const ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
