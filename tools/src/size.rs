//! Sizes as people write and read them.
//!
//! Written as truncate(1) takes them: `4096`, `40G` and `40GiB` are binary, `40GB` is decimal. Read back with
//! one decimal and a binary unit.

use outcrop_store::MAX_VOLUME_SIZE;
use std::fmt;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SizeError {
    /// Nothing was given.
    Empty,
    /// It has a minus sign.
    Negative,
    /// There are no digits, or something else stands between them.
    NotANumber,
    /// The unit is not known.
    Unit(String),
    /// More than 64 bits of bytes.
    Overflow,
    /// Nothing can have this size.
    Zero,
    /// More than a volume can have.
    AboveLimit,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeError::Empty => f.write_str("a size is missing; write bytes or a unit, such as 40G"),
            SizeError::Negative => f.write_str("a size can't be negative"),
            SizeError::NotANumber => f.write_str("not a size; write a whole number of bytes or a unit, such as 40G"),
            SizeError::Unit(unit) => {
                write!(f, "unknown unit '{unit}'; known are K, M, G, T (or KiB, MiB, …), and KB, MB, GB, TB for powers of 1000")
            }
            SizeError::Overflow | SizeError::AboveLimit => f.write_str("too big; a volume can have at most 64T"),
            SizeError::Zero => f.write_str("a size of 0 is not allowed here"),
        }
    }
}

impl std::error::Error for SizeError {}

/// Reads a number of bytes.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    if text.starts_with('-') {
        return Err(SizeError::Negative);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(SizeError::NotANumber);
    }
    // Only too many digits are left to go wrong.
    let number: u64 = number.parse().map_err(|_| SizeError::Overflow)?;
    number.checked_mul(multiplier(unit.trim_start())?).ok_or(SizeError::Overflow)
}

/// Reads the size of a volume: 1 byte to 64 TiB.
pub fn parse_volume(text: &str) -> Result<u64, SizeError> {
    match parse(text)? {
        0 => Err(SizeError::Zero),
        size if size > MAX_VOLUME_SIZE => Err(SizeError::AboveLimit),
        size => Ok(size),
    }
}

fn multiplier(unit: &str) -> Result<u64, SizeError> {
    let lower = unit.to_ascii_lowercase();
    let (letter, rest) = lower.split_at_checked(1).unwrap_or((&lower, ""));
    let power = match letter {
        "" => return Ok(1),
        "b" if rest.is_empty() => return Ok(1),
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return Err(SizeError::Unit(unit.to_owned())),
    };
    match rest {
        "" | "ib" => Ok(1024_u64.pow(power)),
        "b" => Ok(1000_u64.pow(power)),
        _ => Err(SizeError::Unit(unit.to_owned())),
    }
}

/// Bytes for people: `512 B`, `4.0 KiB`, `20.0 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        // 1023.95 would be shown as 1024.0.
        if !unit.is_empty() && value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_truncate_reads() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("1k", 1024),
            ("40G", 40 << 30),
            ("20GiB", 20 << 30),
            ("1 TiB", 1 << 40),
            ("1T", 1 << 40),
            ("2MB", 2_000_000),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for (text, error) in [
            ("", SizeError::Empty),
            ("-1", SizeError::Negative),
            ("-40G", SizeError::Negative),
            ("G", SizeError::NotANumber),
            ("big", SizeError::NotANumber),
            ("1.5G", SizeError::NotANumber),
            ("+1G", SizeError::NotANumber),
            ("12X", SizeError::Unit("X".to_owned())),
            ("12Gi", SizeError::Unit("Gi".to_owned())),
            ("12\u{e9}", SizeError::Unit("\u{e9}".to_owned())),
            ("16E", SizeError::Overflow),
            ("18446744073709551616", SizeError::Overflow),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_volume_has_1_byte_to_64_tib() {
        assert_eq!(parse_volume("0"), Err(SizeError::Zero));
        assert_eq!(parse_volume("0G"), Err(SizeError::Zero));
        assert_eq!(parse_volume("1"), Ok(1));
        assert_eq!(parse_volume("64T"), Ok(64 << 40));
        assert_eq!(parse_volume("65T"), Err(SizeError::AboveLimit));
        assert!(parse_volume("70368744177665").is_err());
    }

    #[test]
    fn shows_sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (20 << 30, "20.0 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(parse(&human(64 << 40).replace(".0", "")).unwrap(), 64 << 40);
    }
}
