//! Whether a compressed cluster at the end of a file is all there.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Whether `data` is a deflate stream that gives a whole cluster without reading on.
pub(super) fn is_whole_deflate(data: &[u8], cluster_size: usize) -> bool {
    let mut cluster = vec![0; cluster_size];
    let (status, _, written) = decompress(&mut DecompressorOxide::new(), data, &mut cluster, 0, 0);
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput) && written == cluster_size
}

/// Whether the zstd frame at the start of `data` ends within it. A frame tells its blocks' lengths (RFC 8878).
pub(super) fn is_whole_zstd(data: &[u8]) -> bool {
    frame_length(data).is_some_and(|length| length <= data.len())
}

fn frame_length(data: &[u8]) -> Option<usize> {
    let descriptor = *data.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?.first()?;
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        power => 1 << power,
    };
    let mut at = 5 + usize::from(!single_segment) + dictionary + content_size;
    loop {
        let header = data.get(at..)?.first_chunk::<3>()?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        // Of a run (type 1) only the byte that is repeated is stored.
        at += 3 + if header >> 1 & 3 == 1 { 1 } else { (header >> 3) as usize };
        if header & 1 == 1 {
            let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
            return Some(at + checksum);
        }
    }
}
