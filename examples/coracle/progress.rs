//! What a pull and a push show: on a terminal a bar for each layer on its way, below the layers that are there; else plain lines.
#![forbid(unsafe_code)]

use crate::containers::short;
use crate::format::size;
use coracle::{Digest, PullEvent, PushEvent, Reference, Sent};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{self, Write};

pub struct Progress {
    /// For lines where there is no terminal.
    out: Box<dyn Write + Send>,
    /// Draws nothing where there is none.
    bars: MultiProgress,
    /// Layers on their way.
    flights: Vec<(Digest, ProgressBar)>,
    found: bool,
    failed: Option<io::Error>,
}

impl From<io::Stdout> for Progress {
    fn from(out: io::Stdout) -> Self {
        Self::new(Box::new(out), ProgressDrawTarget::stdout())
    }
}

impl From<io::Stderr> for Progress {
    fn from(out: io::Stderr) -> Self {
        Self::new(Box::new(out), ProgressDrawTarget::stderr())
    }
}

impl Progress {
    fn new(out: Box<dyn Write + Send>, target: ProgressDrawTarget) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        Self { out, bars, flights: Vec::new(), found: false, failed: None }
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

    /// Bytes that came or went, of so many, with the words for what is done with them and for what is when they are all there.
    fn fly(&mut self, layer: Digest, done: u64, size: u64, words: (&'static str, &'static str)) {
        if self.bars.is_hidden() {
            return;
        }
        let at = self.flights.iter().position(|(other, _)| *other == layer).unwrap_or_else(|| {
            let bar = ProgressBar::new(size).with_prefix(short(&layer.hex()).to_owned());
            self.flights.push((layer, self.bars.add(bar)));
            self.flights.len() - 1
        });
        let bar = &self.flights[at].1;
        let word = if done < size { words.0 } else { words.1 };
        if bar.message() != word {
            bar.set_style(style(done < size));
            bar.set_message(word);
            bar.set_length(size);
        }
        bar.set_position(done);
    }

    fn land(&mut self, layer: &Digest, what: &str) {
        self.clear(|other| other == layer);
        self.say(&format!("{}: {what}", short(&layer.hex())));
    }

    /// A line that stays, above the bars.
    pub fn say(&mut self, line: &str) {
        let said = match self.flights.is_empty() {
            true => writeln!(self.out, "{line}").and_then(|()| self.out.flush()),
            false => self.bars.println(line),
        };
        if let Err(error) = said {
            self.failed.get_or_insert(error);
        }
    }

    /// Takes the bars away.
    pub fn end(&mut self) {
        self.clear(|_| true);
    }

    fn clear(&mut self, which: impl Fn(&Digest) -> bool) {
        for (_, bar) in self.flights.extract_if(.., |(layer, _)| which(layer)) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

fn style(moves: bool) -> ProgressStyle {
    let template = if moves { "{prefix}: {msg} [{bar:25}] {done}/{whole}" } else { "{prefix}: {msg}" };
    // What can't be read of a template would be shown as bars are by default.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let write = |number: fn(&ProgressState) -> u64| {
        move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}", size(number(state)));
        }
    };
    style
        .progress_chars("=> ")
        .with_key("done", write(ProgressState::pos))
        .with_key("whole", write(|state| state.len().unwrap_or_default()))
}
