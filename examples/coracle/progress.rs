//! What a pull and a push show: on a terminal a bar for each layer on its way, below the layers that are there; else plain lines.
#![forbid(unsafe_code)]

use crate::containers::short;
use crate::format::size;
use coracle::{Digest, PullEvent, PushEvent, Reference, Sent};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// No eye sees more.
const REDRAW: Duration = Duration::from_millis(80);
const BAR: u64 = 25;

/// A layer on its way: bytes that came or went, of so many.
struct Flight {
    layer: Digest,
    done: u64,
    size: u64,
    /// What is done with it, and what is when all bytes are there.
    words: (&'static str, &'static str),
}

pub struct Progress<W> {
    out: W,
    bars: bool,
    flights: Vec<Flight>,
    /// Lines of bars that stand below everything else.
    drawn: usize,
    last: Option<Instant>,
    found: bool,
    failed: Option<io::Error>,
}

impl<W: Write + AsFd + IsTerminal> Progress<W> {
    pub fn new(out: W) -> Self {
        let bars = out.is_terminal();
        Self { out, bars, flights: Vec::new(), drawn: 0, last: None, found: false, failed: None }
    }

    /// Whether there was anything that the store did not have under this name.
    pub fn is_new(&self) -> bool {
        self.found
    }

    /// What became of the first line that could not be written; what it told of goes on all the same.
    pub fn failed(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    pub fn tell(&mut self, name: &Reference, event: &PullEvent) {
        match event {
            PullEvent::Found { .. } => {
                self.found = true;
                let at = name.tag().map_or_else(|| name.to_string(), str::to_owned);
                self.say(&format!("{at}: Pulling from {}", name.path()));
            }
            PullEvent::Bytes { layer, done, size } => {
                self.fly(*layer, *done, *size, ("Downloading", "Extracting"));
            }
            PullEvent::Ready { layer, travelled } => {
                self.land(layer, if *travelled { "Pull complete" } else { "Already exists" });
            }
            _ => {}
        }
    }

    pub fn push(&mut self, event: &PushEvent) {
        match event {
            PushEvent::OnePlatform { index, manifest } => self.say(&format!(
                "{}: not all of this index is in the store: {} of it is pushed",
                short(&index.hex()),
                short(&manifest.hex())
            )),
            PushEvent::Packed { layer, done, size } => {
                self.fly(*layer, *done, *size, ("Compressing", "Compressing"));
            }
            PushEvent::Bytes { layer, done, size } => {
                self.fly(*layer, *done, *size, ("Pushing", "Waiting"));
            }
            PushEvent::Done { layer, sent } => match sent {
                Sent::Uploaded => self.land(layer, "Pushed"),
                Sent::Exists => self.land(layer, "Layer already exists"),
                Sent::Mounted { from } => self.land(layer, &format!("Mounted from {from}")),
                _ => self.land(layer, "Done"),
            },
            _ => {}
        }
    }

    fn fly(&mut self, layer: Digest, done: u64, size: u64, words: (&'static str, &'static str)) {
        match self.flights.iter_mut().find(|flight| flight.layer == layer) {
            Some(flight) => *flight = Flight { layer, done, size, words },
            None => {
                self.flights.push(Flight { layer, done, size, words });
                self.last = None;
            }
        }
        if self.last.is_none_or(|last| last.elapsed() >= REDRAW) {
            self.redraw("");
        }
    }

    fn land(&mut self, layer: &Digest, what: &str) {
        self.flights.retain(|flight| flight.layer != *layer);
        self.say(&format!("{}: {what}", short(&layer.hex())));
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.redraw(&format!("{line}\n"));
    }

    /// Takes the bars away.
    pub fn end(&mut self) {
        self.flights.clear();
        self.redraw("");
    }

    /// Writes lines where the bars stood, and the bars below them; all in one write, so that nothing flickers.
    fn redraw(&mut self, lines: &str) {
        let mut text = String::new();
        if self.drawn > 0 {
            text = format!("\x1b[{}A\x1b[J", self.drawn);
        }
        text.push_str(lines);
        self.drawn = 0;
        if self.bars {
            // A line that the terminal breaks would be two.
            let columns =
                rustix::termios::tcgetwinsize(&self.out).map_or(80, |size| usize::from(size.ws_col));
            for flight in &self.flights {
                text.extend(flight.bar().chars().take(columns.max(2) - 1));
                text.push('\n');
            }
            self.drawn = self.flights.len();
            self.last = Some(Instant::now());
        }
        if let Err(error) = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            self.failed.get_or_insert(error);
        }
    }
}

impl Flight {
    fn bar(&self) -> String {
        let Self { layer, done, size: whole, words: (doing, after) } = self;
        let layer = layer.hex();
        let layer = short(&layer);
        if done >= whole {
            return format!("{layer}: {after}");
        }
        let full = usize::try_from(done.saturating_mul(BAR) / whole.max(&1)).unwrap_or_default();
        let rest = BAR as usize - full.min(BAR as usize);
        format!(
            "{layer}: {doing} [{}>{}] {}/{}",
            "=".repeat(full),
            " ".repeat(rest),
            size(*done),
            size(*whole)
        )
    }
}
