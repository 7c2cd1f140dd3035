//! When a registry wants to be asked again (RFC 9110, 10.2.3): in so many seconds, or at a date (5.6.7).
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How long Retry-After says to wait; nothing where that is past.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(date(text, now)?.duration_since(now).unwrap_or_default())
}

/// A date in each of the three forms that a recipient has to know.
pub(super) fn date(text: &str, now: SystemTime) -> Option<SystemTime> {
    let number = |text: &str| -> Option<u64> {
        Some(text).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    let words: Vec<&str> = text.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [name, day, month, year, time, "GMT"] if name.len() == 4 && year.len() == 4 => {
            (day, month, number(year)?, time)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT: of the years that end so, none that is more than 50 years ahead.
        [name, day, month, year, time, "GMT"] if name.ends_with(',') && year.len() == 2 => {
            let this = 1970 + now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() / 31_556_952;
            let year = this - this % 100 + number(year)?;
            (day, month, if year > this + 50 { year - 100 } else { year }, time)
        }
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] if year.len() == 4 => (day, month, number(year)?, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let [hour, minute, second] = time.split(':').map(number).collect::<Option<Vec<_>>>()?[..] else {
        return None;
    };
    let day = number(day)?;
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 of the Gregorian calendar, whose years begin in March here, so that a leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_say_how_long() {
        // Sun, 06 Nov 1994 08:49:37 GMT, as `date -ud` has it.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun Nov  6 08:50:07 1994", Some(30)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(86_400)),
            // Past, also by its two digits, which are not of the next century.
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0)),
            ("Tuesday, 06-Nov-73 08:49:37 GMT", Some(0)),
            ("Wed, 01 Mar 2000 00:00:00 GMT", Some(951_868_800 - 784_111_777)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400 - 784_111_777)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Non 1994 08:49:37 GMT", None),
            ("Sun, 40 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
        ] {
            assert_eq!(retry_after(text, now).map(|wait| wait.as_secs()), seconds, "{text}");
        }
    }
}
