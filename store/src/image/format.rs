//! Which format an image file has, told by its content and never by its name.

use super::input::Input;
use super::source::bad;
use crate::error::{Error, Result};

/// How an image file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Byte for byte. Anything that starts like nothing known, a LUKS container included: its ciphertext is
    /// what that disk holds.
    Raw,
    /// By the qcow2 source.
    Qcow2,
    /// By `qemu-img`, whose name for it this is.
    Foreign(&'static str),
}

impl Format {
    /// Its name, as qemu calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Foreign(name) => name,
        }
    }

    /// Looks at the content of `input`.
    pub(super) fn probe(input: &Input) -> Result<Self> {
        let head = input.head(512)?;
        if let Some((program, name)) = COMPRESSED.iter().find(|(_, _, magic)| head.starts_with(magic)).map(|(p, n, _)| (p, n)) {
            return Err(Error::UnsupportedImage {
                path: input.path().to_owned(),
                reason: format!("it is a {name} file, not a disk image"),
                hint: format!("decompress it first, with '{program}'"),
            });
        }
        if head.starts_with(super::qcow2::MAGIC) {
            return match head.get(4..8) {
                Some([0, 0, 0, 2 | 3]) => Ok(Format::Qcow2),
                Some([0, 0, 0, 1]) => Ok(Format::Foreign("qcow")),
                Some(&[a, b, c, d]) => {
                    Err(bad(input.path(), format!("it is qcow2 of the unknown version {}", u32::from_be_bytes([a, b, c, d]))))
                }
                _ => Err(bad(input.path(), "it starts as qcow2 and ends within the header")),
            };
        }
        // A sparse file without a capacity is a descriptor in disguise: qemu reads the one that is inside.
        let hidden = head.starts_with(b"KDMV") && head.get(12..20).is_none_or(|capacity| capacity == [0; 8]);
        if hidden || head.starts_with(b"# Disk DescriptorFile") {
            // Its extents are other files, by any path: they can't be held to the policy.
            return Err(Error::UnsupportedImage {
                path: input.path().to_owned(),
                reason: "it is a vmdk descriptor, which names other files".to_owned(),
                hint: "convert it first, with 'qemu-img convert -O qcow2'".to_owned(),
            });
        }
        for (name, at, magic) in FOREIGN {
            if head.get(*at..at + magic.len()) == Some(*magic) {
                return Ok(Format::Foreign(name));
            }
        }
        // These two have their header at the end.
        if input.length() > 512 {
            let mut tail = [0; 512];
            input.read(&mut tail, input.length() - 512)?;
            if is_fixed_vhd(&tail, input.length()) {
                return Ok(Format::Foreign("vpc"));
            }
            if tail.starts_with(b"koly\0\0\0\x04\0\0\x02\0") {
                return Ok(Format::Foreign("dmg"));
            }
        }
        Ok(Format::Raw)
    }
}

/// (qemu's name, offset, magic).
const FOREIGN: &[(&str, usize, &[u8])] = &[
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vdi", 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format"),
];

/// (what unpacks it, its name, magic). A download that was not unpacked is the common mistake.
const COMPRESSED: &[(&str, &str, &[u8])] = &[
    ("gzip -d", "gzip", &[0x1f, 0x8b, 0x08]),
    ("xz -d", "xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    ("zstd -d", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ("bzip2 -d", "bzip2", b"BZh91AY&SY"),
];

/// A footer alone could be chance or a guest's doing: it has to fit the file and its own checksum too.
fn is_fixed_vhd(footer: &[u8; 512], length: u64) -> bool {
    let word = |at: usize| footer[at..at + 4].iter().fold(0u32, |sum, byte| (sum << 8) | u32::from(*byte));
    let current_size = (u64::from(word(48)) << 32) | u64::from(word(52));
    let sum: u32 = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at)).map(|(_, byte)| u32::from(*byte)).sum();
    footer.starts_with(b"conectix") && word(60) == 2 && word(64) == !sum && current_size.checked_add(512) == Some(length)
}
