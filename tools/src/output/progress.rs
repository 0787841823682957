//! Tells on stderr how far a long operation is: a bar on a terminal, else a line now and then.

use crate::cli::args::ProgressKind;
use crate::size::human;
use indicatif::{ProgressBar, ProgressStyle};
use outcrop_store::image::Progress;
use parking_lot::Mutex;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Between two lines, where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Takes progress, and the wish to stop.
pub struct Meter {
    display: Display,
    cancelled: AtomicBool,
    notify: Notify,
}

enum Display {
    Silent,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    what: String,
    begun: Instant,
    last: Instant,
}

impl Meter {
    /// Tells nothing.
    pub fn silent() -> Self {
        Self::of(Display::Silent)
    }

    /// Tells how far `what` is.
    pub fn new(what: &str, kind: ProgressKind) -> Self {
        let display = match kind {
            ProgressKind::None => Display::Silent,
            ProgressKind::Auto if std::io::stderr().is_terminal() => {
                const TEMPLATE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {percent}% {binary_bytes_per_sec} ETA {eta}";
                let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
                // No length: nothing is drawn before the first progress gives one.
                Display::Bar(ProgressBar::no_length().with_style(style.progress_chars("=> ")).with_message(what.to_owned()))
            }
            ProgressKind::Auto | ProgressKind::Lines => {
                let now = Instant::now();
                Display::Lines(Mutex::new(Lines { what: what.to_owned(), begun: now, last: now }))
            }
        };
        Self::of(display)
    }

    fn of(display: Display) -> Self {
        Self { display, cancelled: AtomicBool::new(false), notify: Notify::new() }
    }

    /// Asks the operation to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Ready when [`Meter::cancel`] was called.
    pub async fn cancelled_signal(&self) {
        self.notify.notified().await;
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Meter {
    fn advance(&self, done: u64, total: u64) {
        match &self.display {
            Display::Silent => {}
            Display::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Display::Lines(lines) => {
                let mut lines = lines.lock();
                if lines.last.elapsed() >= LINE_INTERVAL {
                    lines.last = Instant::now();
                    // Nobody there to read it is no reason to stop.
                    let _ = writeln!(std::io::stderr(), "{}", lines.text(done, total));
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Lines {
    fn text(&self, done: u64, total: u64) -> String {
        let rate = done as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let percent = if total == 0 { 100 } else { u128::from(done) * 100 / u128::from(total) };
        let left = (total.saturating_sub(done)) as f64 / rate.max(1.0);
        format!("{}: {} of {} ({percent}%), {}/s, {left:.0} s left", self.what, human(done), human(total), human(rate as u64))
    }
}
