//! Where everything is in a qcow2 file that is written in one go: header, refcounts, L1, all L2 tables, then the clusters of
//! data in order. The file has nothing else, so every cluster of it has a refcount of 1.
//!
//! From qemu's `docs/interop/qcow2.txt`. Numbers are big-endian.

/// Bytes of a cluster.
pub(super) const CLUSTER: u64 = 1 << CLUSTER_BITS;
pub(super) const CLUSTER_BITS: u32 = 16;
/// Entries of an L2 table: one cluster of numbers of 8 bytes.
pub(super) const L2_ENTRIES: u64 = CLUSTER / 8;
/// Refcounts (of 2 bytes) in a block of one cluster.
const REFCOUNTS: u64 = CLUSTER / 2;
/// A cluster in an L1 or L2 entry that has no other reference.
const COPIED: u64 = 1 << 63;
/// qemu counts a disk in sectors.
const SECTOR: u64 = 512;

/// Which clusters of the virtual disk have data. One bit each; what is never set takes no memory, as it is never touched.
pub(super) struct Clusters {
    bits: Vec<u64>,
    /// Set bits.
    pub count: u64,
}

impl Clusters {
    pub fn new(size: u64) -> Self {
        let words = size.div_ceil(CLUSTER).div_ceil(64);
        Self { bits: vec![0; words as usize], count: 0 }
    }

    /// Sets one; whether it is among them.
    pub fn set(&mut self, cluster: u64) -> bool {
        let Some(word) = self.bits.get_mut((cluster / 64) as usize) else { return false };
        let bit = 1 << (cluster % 64);
        self.count += u64::from(*word & bit == 0);
        *word |= bit;
        true
    }

    pub fn has(&self, cluster: u64) -> bool {
        self.bits.get((cluster / 64) as usize).is_some_and(|word| word & (1 << (cluster % 64)) != 0)
    }

    /// The words that one L2 table maps; fewer at the end.
    fn of_table(&self, table: u64) -> &[u64] {
        let words = (L2_ENTRIES / 64) as usize;
        let first = (table as usize * words).min(self.bits.len());
        &self.bits[first..(first + words).min(self.bits.len())]
    }

    fn table_is_used(&self, table: u64) -> bool {
        self.of_table(table).iter().any(|word| *word != 0)
    }
}

/// The places, in clusters of the file.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the virtual disk, in bytes: whole sectors.
    size: u64,
    l1_entries: u64,
    refcount_table: u64,
    refcount_table_clusters: u64,
    refcount_blocks: u64,
    refcount_block_count: u64,
    l1: u64,
    l2: u64,
    l2_count: u64,
    pub data: u64,
    pub total: u64,
}

impl Layout {
    pub fn new(size: u64, clusters: &Clusters) -> Self {
        let l1_entries = size.div_ceil(CLUSTER * L2_ENTRIES).max(1);
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
        let l2_count = (0..l1_entries).filter(|table| clusters.table_is_used(*table)).count() as u64;
        let others = 1 + l1_clusters + l2_count + clusters.count;
        // The refcounts count themselves: a few rounds settle it.
        let (mut table, mut blocks) = (1, 1);
        loop {
            let total = others + table + blocks;
            let wanted = total.div_ceil(REFCOUNTS);
            let wanted_table = (wanted * 8).div_ceil(CLUSTER);
            if (wanted, wanted_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (wanted.max(blocks), wanted_table.max(table));
        }
        let refcount_table = 1;
        let refcount_blocks = refcount_table + table;
        let l1 = refcount_blocks + blocks;
        let l2 = l1 + l1_clusters;
        let data = l2 + l2_count;
        Self {
            size: size.next_multiple_of(SECTOR),
            l1_entries,
            refcount_table,
            refcount_table_clusters: table,
            refcount_blocks,
            refcount_block_count: blocks,
            l1,
            l2,
            l2_count,
            data,
            total: data + clusters.count,
        }
    }

    /// The first cluster.
    pub fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(CLUSTER as usize);
        header.extend(*b"QFI\xfb");
        header.extend(3_u32.to_be_bytes()); // version
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend(0_u32.to_be_bytes()); // not encrypted
        header.extend((self.l1_entries as u32).to_be_bytes());
        header.extend((self.l1 * CLUSTER).to_be_bytes());
        header.extend((self.refcount_table * CLUSTER).to_be_bytes());
        header.extend((self.refcount_table_clusters as u32).to_be_bytes());
        header.extend([0; 12]); // no internal snapshots
        header.extend([0; 24]); // no feature bits
        header.extend(4_u32.to_be_bytes()); // refcounts of 2^4 bits
        header.extend(104_u32.to_be_bytes()); // length of the header
        header.extend([0; 8]); // no extensions
        padded(header)
    }

    /// The refcount table and its blocks.
    pub fn refcounts(&self, put: &mut dyn FnMut(&[u8]) -> crate::error::Result<()>) -> crate::error::Result<()> {
        let table = (0..self.refcount_block_count).map(|block| (self.refcount_blocks + block) * CLUSTER);
        put_numbers(table, self.refcount_table_clusters, put)?;
        for block in 0..self.refcount_block_count {
            let used = (self.total - (block * REFCOUNTS).min(self.total)).min(REFCOUNTS);
            put(&padded(1_u16.to_be_bytes().repeat(used as usize)))?;
        }
        Ok(())
    }

    /// The L1 table and all L2 tables.
    pub fn tables(
        &self,
        clusters: &Clusters,
        put: &mut dyn FnMut(&[u8]) -> crate::error::Result<()>,
    ) -> crate::error::Result<()> {
        let mut next = self.l2;
        let entries = (0..self.l1_entries).map(|table| {
            if clusters.table_is_used(table) {
                next += 1;
                ((next - 1) * CLUSTER) | COPIED
            } else {
                0
            }
        });
        put_numbers(entries, self.l2 - self.l1, put)?;
        debug_assert_eq!(next, self.l2 + self.l2_count);
        let mut place = self.data;
        for table in (0..self.l1_entries).filter(|table| clusters.table_is_used(*table)) {
            let bits = clusters.of_table(table).iter().flat_map(|word| (0..64).map(move |bit| word & (1 << bit) != 0));
            let entries = bits.map(|used| {
                place += u64::from(used);
                if used { ((place - 1) * CLUSTER) | COPIED } else { 0 }
            });
            put_numbers(entries, 1, put)?;
        }
        debug_assert_eq!(place, self.total);
        Ok(())
    }
}

/// Numbers, padded with zeros to whole clusters; one cluster at a time.
fn put_numbers(
    mut numbers: impl Iterator<Item = u64>,
    clusters: u64,
    put: &mut dyn FnMut(&[u8]) -> crate::error::Result<()>,
) -> crate::error::Result<()> {
    for _ in 0..clusters {
        put(&padded(numbers.by_ref().take(L2_ENTRIES as usize).flat_map(u64::to_be_bytes).collect()))?;
    }
    debug_assert!(numbers.next().is_none());
    Ok(())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(CLUSTER as usize, 0);
    bytes
}
