//! Completions and man pages, out of the command line's own definition.

use super::args::Cli;
use crate::output;
use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use std::path::Path;

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outcrop", &mut script);
    output::bytes(&script)
}

/// Prints `outcrop(1)`, or writes a page for every command into `dir`.
pub fn man(dir: Option<&Path>) -> Result<()> {
    match dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).context("making the man page")?;
            output::bytes(&page)
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), dir).with_context(|| format!("writing man pages into {}", dir.display()))
        }
    }
}
