//! Running commands, with all that they said when they fail.

use std::process::{Command, Output, Stdio};

/// What a command said, and how it ended.
fn report(command: &Command, output: &Output) -> String {
    format!(
        "{command:?}\n  {}\n  stdout: {}\n  stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim_end(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
}

fn finish(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("starting {command:?}: {error}"))
}

/// Runs a command that must succeed; gives its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "this must succeed: {}", report(command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must fail by itself (exit status, no signal, no panic); gives its standard error.
#[track_caller]
pub fn fails(command: &mut Command) -> String {
    let output = finish(command);
    let code = output.status.code();
    assert!(code.is_some_and(|code| code != 0), "this must fail, with an exit status: {}", report(command, &output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked at"), "this must not panic: {}", report(command, &output));
    assert!(!said.trim().is_empty(), "a failure must say why: {}", report(command, &output));
    said
}

/// Runs a line of shell that must succeed (`set -eu`); the arguments are `$1`, `$2`, …
#[track_caller]
pub fn sh<A: AsRef<std::ffi::OsStr>>(line: &str, arguments: impl IntoIterator<Item = A>) -> String {
    run(Command::new("bash").arg("-euc").arg(format!("set -o pipefail; {line}")).arg("sh").args(arguments))
}
