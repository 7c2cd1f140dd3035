//! Pressure stall information: for which part of the time processes waited (the kernel's accounting/psi).
#![forbid(unsafe_code)]

use std::time::Duration;

/// How much of the time processes waited for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one of them waited.
    pub some: Stall,
    /// All of them waited at once. For processors only since Linux 5.13.
    pub full: Option<Stall>,
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stall {
    /// In percent, over the last ten seconds.
    pub avg10: f64,
    /// In percent, over the last minute.
    pub avg60: f64,
    /// In percent, over the last five minutes.
    pub avg300: f64,
    /// In all.
    pub total: Duration,
}

impl Pressure {
    /// Of lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; the total is in microseconds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let stall = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            let word = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            let percent = |key| word(key)?.parse().ok();
            Some(Stall {
                avg10: percent("avg10")?,
                avg60: percent("avg60")?,
                avg300: percent("avg300")?,
                total: Duration::from_micros(word("total")?.parse().ok()?),
            })
        };
        Some(Self { some: stall("some")?, full: stall("full") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_lines() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        let pressure = Pressure::parse(text).unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.avg60), (1.5, 0.25));
        assert_eq!(pressure.some.total, Duration::from_micros(1_234_567));
        assert_eq!(pressure.full.unwrap().total, Duration::from_micros(9));
        let only = Pressure::parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n").unwrap();
        assert_eq!(only.full, None);
        for bad in
            ["", "some", "some avg10=x avg60=0 avg300=0 total=0", "full avg10=0 avg60=0 avg300=0 total=0"]
        {
            assert_eq!(Pressure::parse(bad), None, "{bad:?}");
        }
    }
}
