//! Points in time, as docker's `until` takes them.
#![forbid(unsafe_code)]

use crate::fail::{Result, usage};
use coracle::rfc3339;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What reproducible builds set in the environment, in seconds since 1970.
pub fn source_date_epoch() -> Result<Option<SystemTime>> {
    let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = epoch.to_str().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let time = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(seconds));
    time.map(Some).ok_or_else(|| usage(format!("SOURCE_DATE_EPOCH={epoch:?}: seconds since 1970")))
}

/// A point in time on the command line.
pub enum Moment {
    At(SystemTime),
    /// The beginning of one as documents write it, in UTC, as far as it was given: such texts sort as their times do.
    Written(String),
}

impl Moment {
    /// `1h30m` ago, seconds since 1970, or a day or time in UTC: `2026-01-02`, `2026-01-02T03:04:05Z`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            || usage(format!("invalid time {text:?}: 24h, 1h30m, 2026-01-02 or 2026-01-02T03:04:05Z"));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let seconds = text.parse().map_err(|_| wrong())?;
            return UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map(Self::At).ok_or_else(wrong);
        }
        if let Some(time) = duration(text) {
            return SystemTime::now().checked_sub(time).map(Self::At).ok_or_else(wrong);
        }
        const SHAPE: &str = "0000-00-00T00:00:00";
        let written = text.strip_suffix('Z').unwrap_or(text);
        let fits =
            |(shape, found): (u8, u8)| if shape == b'0' { found.is_ascii_digit() } else { shape == found };
        let whole = if text.ends_with('Z') { SHAPE.len() } else { "0000-00-00".len() };
        match written.len() == whole && SHAPE.bytes().zip(written.bytes()).all(fits) {
            true => Ok(Self::Written(written.to_owned())),
            false => Err(wrong()),
        }
    }

    pub fn is_after(&self, time: SystemTime) -> bool {
        match self {
            Self::At(moment) => time < *moment,
            Self::Written(text) => rfc3339(time) < *text,
        }
    }
}

/// As Go writes them: `24h`, `1h30m`, `1.5h`, `90s`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut all) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let unit = match &tail[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
        all = all.checked_add(part)?;
        rest = &tail[end..];
    }
    Some(all)
}
