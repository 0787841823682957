//! The qcow2 header: parsed, and everything refused that can't be read rightly.

use super::super::input::Input;
use super::super::source::bad;
use super::MAGIC;
use crate::error::Result;

/// Largest cluster: 2 MiB, qemu's and imago's limit.
const CLUSTER_BITS_MAX: u32 = 21;

/// Largest L1 table in bytes: qemu's limit.
const L1_BYTES_MAX: u64 = 32 << 20;

/// Longest name of a backing file, of the specification.
const BACKING_NAME_MAX: u64 = 1023;

/// What a header says that matters for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Virtual size in bytes.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries of the L1 table that the virtual size needs: all there are to look at.
    pub(super) l1_entries: u64,
    pub(super) extended_l2: bool,
    pub(super) zstd: bool,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    /// Name of the external data file, if there is one.
    pub(super) data_file: Option<String>,
}

impl Header {
    /// Reads and checks the header of `input`.
    pub(super) fn read(input: &Input) -> Result<Self> {
        // The header, its extensions and the backing name all lie in the first cluster.
        let head = input.head(1 << CLUSTER_BITS_MAX)?;
        let header = parse(&head).map_err(|refusal| match refusal {
            Refusal::Bad(reason) => bad(input.path(), reason),
            Refusal::Repair(what) => {
                bad(input.path(), format!("{what}; repair a copy of it with 'qemu-img check -r all {}'", input.path().display()))
            }
        })?;
        input.check_virtual_size(header.size)?;
        let l1_end = header.l1_offset.saturating_add(header.l1_entries * 8);
        if l1_end > input.length() {
            return Err(bad(
                input.path(),
                format!("it is truncated: its L1 table ends at byte {l1_end}, the file at {}", input.length()),
            ));
        }
        Ok(header)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry.
    pub(super) fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the virtual disk that one L2 table maps.
    pub(super) fn l2_span(&self) -> u64 {
        self.cluster_size() / self.l2_entry_bytes() * self.cluster_size()
    }

    /// Why imago can't read it, if it can't.
    pub(super) fn needs_qemu(&self) -> Option<&'static str> {
        match (self.zstd, self.extended_l2) {
            (true, _) => Some("it is compressed with zstd"),
            (_, true) => Some("it has extended L2 entries"),
            _ => None,
        }
    }
}

/// Why a header is refused.
#[derive(Debug)]
enum Refusal {
    Bad(String),
    Repair(&'static str),
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Refusal::Bad(reason.to_owned())
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::Bad(reason)
    }
}

/// Big-endian numbers at fixed places of a file's beginning.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], Refusal> {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.0.get(at..)?.first_chunk::<N>().copied())
            .ok_or_else(|| "it ends within its header".into())
    }

    fn u32(&self, at: u64) -> Result<u32, Refusal> {
        Ok(u32::from_be_bytes(self.bytes(at)?))
    }

    fn u64(&self, at: u64) -> Result<u64, Refusal> {
        Ok(u64::from_be_bytes(self.bytes(at)?))
    }

    fn text(&self, at: u64, length: u64, what: &str) -> Result<String, Refusal> {
        let range = usize::try_from(at).ok().zip(usize::try_from(at.saturating_add(length)).ok());
        let bytes = range.and_then(|(from, to)| self.0.get(from..to)).ok_or("it ends within its header")?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("its {what} is not UTF-8").into())
    }
}

fn parse(head: &[u8]) -> Result<Header, Refusal> {
    let fields = Fields(head);
    let version = fields.u32(4)?;
    if !head.starts_with(MAGIC) || !(2..=3).contains(&version) {
        return Err("it is not qcow2 of version 2 or 3".into());
    }
    let cluster_bits = fields.u32(20)?;
    if !(9..=CLUSTER_BITS_MAX).contains(&cluster_bits) {
        return Err(format!("its cluster size is 2^{cluster_bits} bytes; 2^9 to 2^{CLUSTER_BITS_MAX} are possible").into());
    }
    let cluster_size = 1u64 << cluster_bits;
    match fields.u32(32)? {
        0 => {}
        method => {
            let method = match method {
                1 => "AES",
                2 => "LUKS",
                _ => "an unknown method",
            };
            return Err(format!("it is encrypted ({method}); decrypt it first, with 'qemu-img convert' and its key").into());
        }
    }

    // Version 2 has no feature bits, and 72 bytes of header.
    let (incompatible, header_length) = if version == 3 { (fields.u64(72)?, u64::from(fields.u32(100)?)) } else { (0, 72) };
    if version == 3 && !(104..=cluster_size).contains(&header_length) {
        return Err(format!("its header's length is {header_length} bytes; 104 to {cluster_size} are possible").into());
    }
    if version == 3 && fields.u32(96)? > 6 {
        return Err("its refcounts are wider than 64 bits".into());
    }
    let has = |bit: u32| incompatible >> bit & 1 == 1;
    if has(0) {
        return Err(Refusal::Repair("it was not closed cleanly (its dirty bit is set)"));
    }
    if has(1) {
        return Err(Refusal::Repair("it is marked corrupt"));
    }
    if incompatible >> 5 != 0 {
        let bits: Vec<_> = (5..64).filter(|bit| has(*bit)).map(|bit| bit.to_string()).collect();
        return Err(format!("it needs unknown features (incompatible bits {})", bits.join(", ")).into());
    }
    let compression = if version == 3 && header_length > 104 { fields.bytes::<1>(104)?[0] } else { 0 };
    let zstd = match (has(3), compression) {
        (false, 0) => false,
        (true, 1) => true,
        _ => return Err(format!("its compression type {compression} is unknown, or its compression bit is wrong").into()),
    };
    let extended_l2 = has(4);
    if extended_l2 && cluster_bits < 14 {
        return Err("it has extended L2 entries with clusters below 16 KiB".into());
    }

    let backing = backing_name(&fields, cluster_size)?;
    let extensions = extensions(&fields, version, header_length, cluster_size)?;
    let data_file = match (has(2), extensions.data_file) {
        (false, _) => None,
        (true, Some(name)) => Some(name),
        (true, None) => return Err("its data is in an external file that it does not name".into()),
    };

    let mut header = Header {
        version,
        cluster_bits,
        size: fields.u64(24)?,
        l1_offset: fields.u64(40)?,
        l1_entries: 0,
        extended_l2,
        zstd,
        backing,
        backing_format: extensions.backing_format,
        data_file,
    };
    let declared = u64::from(fields.u32(36)?);
    header.l1_entries = header.size.div_ceil(header.l2_span());
    if declared < header.l1_entries || declared * 8 > L1_BYTES_MAX {
        return Err(format!("its L1 table has {declared} entries for {} bytes", header.size).into());
    }
    if !header.l1_offset.is_multiple_of(cluster_size) {
        return Err(format!("its L1 table is at byte {}, not at a cluster's start", header.l1_offset).into());
    }
    Ok(header)
}

fn backing_name(fields: &Fields<'_>, cluster_size: u64) -> Result<Option<String>, Refusal> {
    let (offset, length) = (fields.u64(8)?, u64::from(fields.u32(16)?));
    // A name of no bytes is no backing file, for qemu too.
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    if length > BACKING_NAME_MAX || offset.saturating_add(length) > cluster_size {
        return Err("the name of its backing file does not lie in its header".into());
    }
    fields.text(offset, length, "backing file's name").map(Some)
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

fn extensions(fields: &Fields<'_>, version: u32, header_length: u64, cluster_size: u64) -> Result<Extensions, Refusal> {
    let mut found = Extensions::default();
    let backing_offset = fields.u64(8)?;
    // In version 2 the backing file's name ends them where no end marker does.
    let limit = if version == 2 && backing_offset != 0 { backing_offset.min(cluster_size) } else { cluster_size };
    let mut at = header_length;
    while at + 8 <= limit {
        let (kind, length) = match (fields.u32(at), fields.u32(at + 4)) {
            (Ok(kind), Ok(length)) => (kind, u64::from(length)),
            // A version 2 file can end with its header, if there is nothing in it.
            (Err(_), _) | (_, Err(_)) if version == 2 => break,
            (Err(refusal), _) | (_, Err(refusal)) => return Err(refusal),
        };
        if kind == 0 {
            return Ok(found);
        }
        let data = at + 8;
        if data + length > limit {
            return Err(format!("a header extension at byte {at} goes past the header").into());
        }
        let slot = match kind {
            0xe279_2aca => Some((&mut found.backing_format, "backing file's format")),
            0x4441_5441 => Some((&mut found.data_file, "data file's name")),
            // imago panics on a last entry that is cut short.
            0x6803_f857 if length % 48 != 0 => return Err("its feature name table is damaged".into()),
            _ => None,
        };
        if let Some((slot, what)) = slot {
            let text = fields.text(data, length, what)?;
            if slot.as_ref().is_some_and(|before| *before != text) {
                return Err(format!("it has two different entries for its {what}").into());
            }
            *slot = Some(text);
        }
        at = data + length.next_multiple_of(8);
    }
    if version == 2 { Ok(found) } else { Err("its header extensions have no end".into()) }
}
