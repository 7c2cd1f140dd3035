//! Text for people: sizes, times, tables, and a grain of docker's templates.
#![forbid(unsafe_code)]

use crate::fail::{Fail, Result, usage};
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// `64m`, `1.5g`, `512`: bytes in docker's units, powers of 1024.
pub fn bytes(name: &str, text: &str) -> Result<u64> {
    let wrong = || usage(format!("invalid size {text:?} for --{name}: a number and b, k, m or g"));
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, unit) = match lower.char_indices().next_back() {
        Some((at, 'k')) => (&lower[..at], 1u64 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        Some((at, 't')) => (&lower[..at], 1 << 40),
        _ => (lower, 1),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let size = number * unit as f64;
    if size.is_finite() && (0.0..1e18).contains(&size) { Ok(size as u64) } else { Err(wrong()) }
}

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}{}", units[0]),
        _ if value < 10.0 => format!("{value:.2}{}", units[unit]),
        _ if value < 100.0 => format!("{value:.1}{}", units[unit]),
        _ => format!("{value:.0}{}", units[unit]),
    }
}

/// As docker lists images: powers of 1000.
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

/// As docker shows memory: powers of 1024.
pub fn binary_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// `3 seconds`, `About a minute`, `2 hours`.
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        3600..5400 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago.
pub fn ago(time: SystemTime) -> String {
    format!("{} ago", human(SystemTime::now().duration_since(time).unwrap_or_default()))
}

/// What a container or an image has written, for a terminal that shall not take orders from it.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Rows under headings, in columns.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|text| (*text).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| visible(&cell)).collect());
    }

    pub fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}   "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes to stdout. A reader who has gone away is no error.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Fail::from),
    }
}

pub fn line(text: impl AsRef<str>) -> Result<()> {
    print(format!("{}\n", text.as_ref()))
}

/// How a value is shown: `--format json`, or `{{.Name}} {{json .Labels}}`.
pub fn shown(format: &str, value: &Value) -> Result<String> {
    if format == "json" {
        return Ok(value.to_string());
    }
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(&unescaped(before));
        let (action, tail) =
            after.split_once("}}").ok_or_else(|| usage(format!("template {format:?}: {{{{ without }}}}")))?;
        text.push_str(&action_text(action.trim(), value)?);
        rest = tail;
    }
    text.push_str(&unescaped(rest));
    Ok(text)
}

fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn action_text(action: &str, value: &Value) -> Result<String> {
    let (json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let path = path
        .strip_prefix('.')
        .ok_or_else(|| usage(format!("template: {action:?} is not {{{{.Field}}}} or {{{{json .Field}}}}")))?;
    let mut at = value;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        at = at.get(name).ok_or_else(|| usage(format!("template: there is no field .{path}")))?;
    }
    Ok(match at {
        _ if json => at.to_string(),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// What stands over a cell of a table that is given by a template.
fn heading(cell: &str, columns: &[(&str, &str)]) -> String {
    let field =
        cell.split_once("{{.").and_then(|(_, rest)| rest.split_once("}}")).map_or(cell, |(name, _)| name);
    let known = columns.iter().find(|(_, known)| *known == field).map(|(heading, _)| (*heading).to_owned());
    known.unwrap_or_else(|| field.to_ascii_uppercase())
}

/// Values as lines in a format, or as a table of some of their fields.
pub fn list(format: Option<&str>, columns: &[(&str, &str)], values: &[Value]) -> Result<()> {
    if let Some(template) = format.and_then(|format| format.strip_prefix("table ")) {
        let template = template.replace("\\t", "\t");
        let cells: Vec<_> = template.split('\t').collect();
        let headings: Vec<_> = cells.iter().map(|cell| heading(cell, columns)).collect();
        let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
        for value in values {
            table.row(cells.iter().map(|cell| shown(cell, value)).collect::<Result<Vec<_>>>()?);
        }
        return print(table.text());
    }
    if let Some(format) = format.filter(|format| *format != "table") {
        return values.iter().try_for_each(|value| line(shown(format, value)?));
    }
    let mut table = Table::new(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
    for value in values {
        table.row(columns.iter().map(|(_, field)| match &value[*field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
    }
    print(table.text())
}
/// Names are whatever a container likes.
pub fn left_out(path: &Path, why: &str) {
    eprintln!("coracle: {} is left out: {why}", visible(&path.display().to_string()));
}
