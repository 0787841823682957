//! An export on its way from the daemon to the command line: frames of a kind, a length and that many bytes.
//!
//! `B` (begin: size and job, 8 bytes each), `M` (map: pairs of offset and end), `m` (the map is complete), `D` (data: an
//! offset, then bytes), `E` (all was sent), `F` (it failed: a [`Failure`] in JSON). Numbers are little-endian.

use crate::failure::Failure;
use axum::body::Bytes;
use outcrop_store::jobs::JobId;
use std::ops::Range;

/// The longest frame: data of 1 MiB, or a map of as much.
const LENGTH_MAX: usize = (1 << 20) + 64;
/// Bytes before a frame's own.
const HEAD: usize = 5;

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// What it is.
    Begin {
        /// Bytes.
        size: u64,
        /// Its job.
        job: JobId,
    },
    /// Ranges of data.
    Map(Vec<Range<u64>>),
    /// That was the map.
    MapDone,
    /// Bytes at an offset.
    Data(u64, Vec<u8>),
    /// That was all.
    End,
    /// It failed.
    Failed(Failure),
}

fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.push(kind);
    bytes.extend((length as u32).to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.into()
}

/// `B`.
pub fn begin(size: u64, job: JobId) -> Bytes {
    frame(b'B', &[&size.to_le_bytes(), &job.0.to_le_bytes()])
}

/// `M`.
pub fn map(ranges: &[Range<u64>]) -> Bytes {
    let pairs: Vec<u8> = ranges.iter().flat_map(|range| [range.start, range.end]).flat_map(u64::to_le_bytes).collect();
    frame(b'M', &[&pairs])
}

/// `m`.
pub fn map_done() -> Bytes {
    frame(b'm', &[])
}

/// `D`.
pub fn data(offset: u64, bytes: &[u8]) -> Bytes {
    frame(b'D', &[&offset.to_le_bytes(), bytes])
}

/// `E`.
pub fn end() -> Bytes {
    frame(b'E', &[])
}

/// `F`.
pub fn failed(failure: &Failure) -> Bytes {
    frame(b'F', &[&serde_json::to_vec(failure).unwrap_or_default()])
}

/// Puts frames together from what comes in.
#[derive(Default)]
pub struct Decoder {
    pending: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.taken);
        self.taken = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// The next frame, when it is there whole; an error if it is none.
    pub fn next(&mut self) -> Result<Option<Frame>, Failure> {
        let broken =
            || Failure::new("the daemon's answer makes no sense").hint("it may be of another version: unmount and mount again");
        let rest = &self.pending[self.taken..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > LENGTH_MAX {
            return Err(broken());
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let numbers = |bytes: &[u8]| -> Vec<u64> { bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect() };
        let frame = match (kind, length) {
            (b'B', 16) => match numbers(body)[..] {
                [size, job] => Frame::Begin { size, job: JobId(job) },
                _ => return Err(broken()),
            },
            (b'M', _) if length.is_multiple_of(16) => {
                Frame::Map(numbers(body).as_chunks().0.iter().map(|[start, end]| *start..*end).collect())
            }
            (b'm', 0) => Frame::MapDone,
            (b'D', 8..) => {
                let (offset, bytes) = body.split_at(8);
                Frame::Data(numbers(offset)[0], bytes.to_vec())
            }
            (b'E', 0) => Frame::End,
            (b'F', _) => Frame::Failed(serde_json::from_slice(body).map_err(|_| broken())?),
            _ => return Err(broken()),
        };
        self.taken += HEAD + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a map of one range")]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_whatever_pieces_they_come_in() {
        let all: Vec<u8> = [
            begin(10_000, JobId(7)),
            map(&[0..4096, 8192..10_000]),
            map_done(),
            data(8192, b"hello"),
            end(),
            failed(&Failure::new("no").hint("yes")),
        ]
        .concat();
        for step in [1, 3, 17, all.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in all.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().expect("they are frames") {
                    got.push(format!("{frame:?}"));
                }
            }
            assert_eq!(got.len(), 6, "{got:?}");
            assert!(got[0].contains("10000") && got[0].contains('7'), "{got:?}");
            assert!(got[1].contains("8192..10000"), "{got:?}");
            assert!(got[3].starts_with("Data(8192"), "{got:?}");
            assert!(got[5].contains("no"), "{got:?}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [&b"X\0\0\0\0"[..], b"B\x01\0\0\0x", b"D\xff\xff\xff\xff", b"M\x08\0\0\0abcdefgh"] {
            let mut decoder = Decoder::default();
            decoder.push(bad);
            assert!(decoder.next().is_err(), "{bad:?}");
        }
        let mut decoder = Decoder::default();
        decoder.push(&map(&[1..2])[..10]);
        assert!(matches!(decoder.next(), Ok(None)), "it is not whole yet");
    }
}
