//! Durations, sizes, booleans and lists as docker's tools, which are written in Go, read them.
#![forbid(unsafe_code)]

use std::time::Duration;

/// `1h2m3.5s`; units ns, us, µs, ms, s, m, h. `0` needs none. A negative one is `None`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(rest);
        let (number, after) = rest.split_at(whole);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if number.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let nanoseconds: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let number: u64 = if number.is_empty() { 0 } else { number.parse().ok()? };
        let mut part = number.checked_mul(nanoseconds)?;
        let mut scale = nanoseconds;
        for digit in fraction.bytes() {
            scale /= 10;
            part = part.checked_add(u64::from(digit - b'0') * scale)?;
        }
        // As many nanoseconds as Go's type has room for.
        total = total.checked_add(part).filter(|total| *total <= i64::MAX as u64)?;
        rest = after;
    }
    Some(Duration::from_nanos(total))
}

/// `512`, `64k`, `1.5g`, `10MB`, `1GiB`: powers of 1024, whatever the unit is called.
pub(super) fn size(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.trim();
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start_matches(' ').to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit)?;
    let bytes = number * 1024f64.powi(power as i32);
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// The words that Go's ParseBool knows.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The fields of one line of comma-separated values (RFC 4180); `None` where a quote is where none may be.
pub(super) fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, next) =
                rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if field.contains('"') {
                return None;
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Some(fields),
            }
            continue;
        };
        let (mut field, mut inner) = (String::new(), quoted);
        loop {
            let (text, next) = inner.split_once('"')?;
            field.push_str(text);
            match next.strip_prefix('"') {
                Some(next) => {
                    field.push('"');
                    inner = next;
                }
                None => {
                    inner = next;
                    break;
                }
            }
        }
        fields.push(field);
        match inner.strip_prefix(',') {
            Some(next) => rest = next,
            None if inner.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let of = |text: &str| duration(text).map(|time| time.as_nanos());
        for (text, expected) in [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            ("50ns", Some(50)),
            ("1.5ms", Some(1_500_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("3µs", Some(3_000)),
            ("0.0000000001s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1d", None),
            ("1s ", None),
            ("9999999999h", None),
        ] {
            assert_eq!(of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_in_powers_of_1024() {
        for (text, expected) in [
            ("512", Some(512)),
            ("64k", Some(65536)),
            ("1.5G", Some(3 << 29)),
            ("10MB", Some(10 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2 kb", Some(2048)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("1x", None),
            ("1e3", None),
            ("99999p", None),
        ] {
            assert_eq!(size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn fields_may_be_quoted_as_a_whole() {
        let of = |line: &str| fields(line).map(|fields| fields.join("|"));
        for (line, expected) in [
            ("a,b=c,", Some("a|b=c|")),
            ("", Some("")),
            ("\"a,b\",c", Some("a,b|c")),
            ("\"a\"\"b\"", Some("a\"b")),
            ("a\"b", None),
            ("\"a\"b", None),
            ("\"a", None),
        ] {
            assert_eq!(of(line).as_deref(), expected, "{line:?}");
        }
    }
}
