//! What a build shows: plain lines as those of docker's classic builder, or on a terminal the steps that are being done.
#![forbid(unsafe_code)]

use crate::containers::short;
use crate::format::visible;
use coracle::{BuildEvent, BuildStep};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

pub struct Steps {
    out: Box<dyn Write + Send>,
    how: How,
    failed: Option<io::Error>,
}

enum How {
    Quiet,
    Plain(Plain),
    Tty(Tty),
}

/// Stages are worked on at once, but are shown one after the other: what is not the turn of waits.
#[derive(Default)]
struct Plain {
    /// The number of the step that is shown as it goes on; those before it are shown whole.
    turn: usize,
    steps: BTreeMap<usize, Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    stage: usize,
    /// FROM, which triggers may follow under the same number.
    is_first: bool,
    done: bool,
}

/// Of the output of a step on a terminal.
const KEPT: usize = 64 << 10;

struct Tty {
    bars: MultiProgress,
    steps: Vec<(Arc<BuildStep>, ProgressBar, Vec<u8>)>,
}

impl Steps {
    pub fn new(how: &str, to_stderr: bool) -> Self {
        let (out, target): (Box<dyn Write + Send>, _) = match to_stderr {
            true => (Box::new(io::stderr()), ProgressDrawTarget::stderr()),
            false => (Box::new(io::stdout()), ProgressDrawTarget::stdout()),
        };
        let how = match how {
            "quiet" => How::Quiet,
            "tty" => How::Tty(Tty { bars: MultiProgress::with_draw_target(target), steps: Vec::new() }),
            _ => How::Plain(Plain { turn: 1, ..Plain::default() }),
        };
        Self { out, how, failed: None }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            self.failed.get_or_insert(error);
        }
    }

    /// What became of the first line that could not be written.
    pub fn failed(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    pub fn say(&mut self, line: &str) {
        if !matches!(self.how, How::Quiet) {
            self.write(format!("{line}\n").as_bytes());
        }
    }

    pub fn tell(&mut self, event: &BuildEvent) {
        if let BuildEvent::Warning { line, text, .. } = event {
            let at = line.map_or_else(String::new, |line| format!("line {line}: "));
            let text = format!("[Warning] {at}{}", visible(text));
            return match &self.how {
                How::Quiet => {}
                How::Tty(tty) => tty.bars.suspend(|| eprintln!("{text}")),
                _ => eprintln!("{text}"),
            };
        }
        let now = match &mut self.how {
            How::Quiet => return,
            How::Plain(plain) => plain.tell(event),
            How::Tty(tty) => return tty.tell(event),
        };
        self.write(&now);
    }

    /// Shows what has waited. Of a build that failed it is what there is of each step.
    pub fn end(&mut self) {
        match &mut self.how {
            How::Quiet => {}
            How::Plain(plain) => {
                let rest: Vec<u8> =
                    std::mem::take(&mut plain.steps).into_values().flat_map(|step| step.bytes).collect();
                self.write(&rest);
            }
            How::Tty(tty) => tty.end(),
        }
    }
}

impl Plain {
    /// What is to be shown now.
    fn tell(&mut self, event: &BuildEvent) -> Vec<u8> {
        let (step, bytes) = match event {
            BuildEvent::Step { step } if step.is_trigger => {
                (step, format!("# Executing trigger: {}\n", visible(&step.text)))
            }
            BuildEvent::Step { step } => {
                (step, format!("Step {}/{} : {}\n", step.number, step.of, visible(&step.text)))
            }
            BuildEvent::Cached { step } => (step, " ---> Using cache\n".to_owned()),
            BuildEvent::Running { step, container } => {
                (step, format!(" ---> Running in {}\n", short(container)))
            }
            BuildEvent::Output { step, bytes, .. } => return self.add(step, bytes, false),
            BuildEvent::Done { step, id } => {
                let line = format!(" ---> {}\n", short(&id.hex()));
                return self.add(step, line.as_bytes(), true);
            }
            _ => return Vec::new(),
        };
        self.add(step, bytes.as_bytes(), false)
    }

    fn add(&mut self, step: &BuildStep, bytes: &[u8], done: bool) -> Vec<u8> {
        let entry = self.steps.entry(step.number).or_default();
        entry.bytes.extend_from_slice(bytes);
        entry.stage = step.stage;
        entry.is_first =
            !step.is_trigger && step.text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("FROM"));
        entry.done = done;
        let mut now = Vec::new();
        // Late triggers, whole.
        let late: Vec<_> =
            self.steps.range(..self.turn).filter(|(_, step)| step.done).map(|(at, _)| *at).collect();
        for at in late {
            now.extend(self.steps.remove(&at).map(|step| step.bytes).unwrap_or_default());
        }
        while let Some(current) = self.steps.get_mut(&self.turn) {
            now.append(&mut current.bytes);
            // After FROM its triggers may come, until something else does.
            let is_over =
                current.done && (!current.is_first || self.steps.range(self.turn + 1..).next().is_some());
            if !is_over {
                break;
            }
            self.steps.remove(&self.turn);
            self.turn += 1;
        }
        now
    }
}

impl Tty {
    fn tell(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Step { step } => {
                // What can't be read of a template would be shown as bars are by default.
                let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}");
                let bar = ProgressBar::new_spinner()
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                let bar = self.bars.add(bar.with_prefix(title(step)));
                bar.enable_steady_tick(Duration::from_millis(100));
                self.steps.push((step.clone(), bar, Vec::new()));
            }
            BuildEvent::Cached { step } => self.finish(step, "CACHED"),
            BuildEvent::Output { step, bytes, .. } => {
                if let Some((_, bar, output)) = self.steps.iter_mut().find(|(other, ..)| other == step) {
                    output.extend_from_slice(bytes);
                    // A failure has the end of it in its error, too.
                    output.drain(..output.len().saturating_sub(KEPT));
                    let text = String::from_utf8_lossy(output);
                    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                    bar.set_message(visible(last));
                }
            }
            BuildEvent::Done { step, .. } => self.finish(step, "DONE"),
            _ => {}
        }
    }

    fn finish(&mut self, step: &Arc<BuildStep>, how: &str) {
        for (step, bar, _) in self.steps.extract_if(.., |(other, ..)| other == step) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
            let _ = self.bars.println(format!("=> {} {how}", title(&step)));
        }
    }

    /// What is not done has failed or was given up; what it said is the reason, maybe.
    fn end(&mut self) {
        for (step, bar, output) in self.steps.drain(..) {
            bar.finish_and_clear();
            let _ = self.bars.println(format!("=> {}", title(&step)));
            for line in String::from_utf8_lossy(&output).lines() {
                let _ = self.bars.println(visible(line));
            }
        }
    }
}

fn title(step: &BuildStep) -> String {
    let stage = step.stage_name.as_ref().map_or_else(String::new, |name| format!("{} ", visible(name)));
    format!("[{stage}{}/{}] {}", step.number, step.of, visible(&step.text))
}
