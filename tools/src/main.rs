//! `outcrop`: versioned volumes as files.
//!
//! The way of a command: `cli` (arguments to a request) → `operations`, executed in this process or, over `control`, in the
//! `daemon` that has the store → `output`. Only here are terminals and anyhow.

mod cli;
mod control;
mod daemon;
mod export;
mod failure;
mod hooks;
mod locate;
mod metrics;
mod mountinfo;
mod operations;
mod options;
mod output;
mod program;
mod schedule;
mod size;

use clap::Parser as _;
use failure::{Failure, exit};
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.first().is_some_and(|argv0| operations::reader::is_called(argv0)) {
        // What there is to say, the daemon was told.
        let outcome = operations::reader::run(arguments.get(1..).unwrap_or_default());
        return if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let [argv0, rest @ ..] = arguments.as_slice()
        && let Some(code) = hooks::called_as(argv0, rest)
    {
        return code;
    }
    let helper = arguments.first().and_then(|argv0| cli::helper::called_as(argv0));
    let outcome = match helper {
        Some(helper) => cli::helper::run(helper, arguments.get(1..).unwrap_or_default()).map(|()| 0),
        // Help goes to stdout with code 0, a usage error to stderr with code 2, both by clap.
        None => cli::run(cli::args::Cli::parse_from(arguments)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let failure = Failure::of(&error);
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "outcrop: {failure}");
            if let Some(hint) = &failure.hint {
                let _ = writeln!(err, "hint: {hint}");
            }
            ExitCode::from(if helper.is_some() { exit::MOUNT } else { failure.code })
        }
    }
}
