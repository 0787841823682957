//! Formats that only qemu can read: `qemu-img convert` into a temporary sparse file in the store.
//!
//! qemu gets every file by descriptor and every format by name (a `json:` block device), and an empty backing file
//! where there is none: it neither probes nor follows a name. An image of a foreign format that says it has a backing file
//! is refused. The temporary file has no name (`O_TMPFILE`), so that no end of this process leaves it behind; qemu-img
//! prints its progress into a pipe of ours, and dies of it when we are gone. Its memory and the size of what it writes
//! are limited, and it is stopped when the disk reaches its floor.

use super::input::Input;
use super::qcow2::Chain;
use super::raw::RawSource;
use super::source::{Extent, Source, bad};
use super::{Progress, Surroundings};
use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Address space that qemu-img may have, in bytes.
const MEMORY_MAX: u64 = 4 << 30;

/// The longest that qemu-img may look at an image's header.
const INFO_MAX: Duration = Duration::from_secs(60);

/// Time between looks at whether qemu-img has ended, the import is cancelled, or the disk full.
const TICK: Duration = Duration::from_millis(50);

/// Bytes kept of what qemu-img says.
const OUTPUT_MAX: u64 = 64 << 10;

/// What a conversion needs of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    /// The program.
    pub(crate) qemu_img: OsString,
    /// Where the temporary file goes.
    pub(crate) directory: PathBuf,
    /// Free bytes of its file system that stay free.
    pub(crate) floor: u64,
}

impl Workshop {
    /// With qemu-img as it is installed.
    pub(crate) fn of(surroundings: &Surroundings) -> Self {
        let Surroundings { directory, floor } = surroundings;
        Self { qemu_img: "qemu-img".into(), directory: directory.clone(), floor: *floor }
    }
}

/// `input` as a block device of qemu, read by `driver`.
pub(super) fn node(driver: &str, input: &Input) -> Value {
    let protocol = if input.is_block_device() { "host_device" } else { "file" };
    json!({ "driver": driver, "file": { "driver": protocol, "filename": input.path_for_others() } })
}

/// What is converted: kept open meanwhile, and looked at again at the end.
pub(super) enum Original {
    /// A checked qcow2 chain, of a feature that imago doesn't know.
    Chain(Chain),
    /// A file of a format of qemu's.
    Foreign(&'static str, Input),
}

impl Original {
    fn path(&self) -> &Path {
        match self {
            Original::Chain(chain) => chain.path(),
            Original::Foreign(_, input) => input.path(),
        }
    }

    fn node(&self) -> Value {
        match self {
            Original::Chain(chain) => chain.for_qemu(),
            Original::Foreign(format, input) => {
                let mut node = node(format, input);
                node["backing"] = Value::Null;
                node
            }
        }
    }

    /// Why qemu-img is needed.
    fn need(&self) -> String {
        match self {
            Original::Chain(chain) => chain.needs_qemu().unwrap_or("it is qcow2").to_owned(),
            Original::Foreign(format, _) => format!("it is of the format {format}"),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        match self {
            Original::Chain(chain) => chain.check_unchanged(),
            Original::Foreign(_, input) => input.check_unchanged(),
        }
    }
}

/// A converted image.
pub(super) struct ConvertedSource {
    original: Original,
    raw: RawSource,
}

impl ConvertedSource {
    /// Converts all of `original`.
    pub(super) fn new(original: Original, workshop: &Workshop, progress: &dyn Progress) -> Result<Self> {
        let image = format!("json:{}", original.node());
        let job = Job { workshop, original: &original, progress };
        let size = match &original {
            Original::Chain(chain) => chain.size(),
            Original::Foreign(_, input) => {
                let size = job.virtual_size(&image)?;
                input.check_virtual_size(size)?;
                size
            }
        };
        let scratch =
            scratch_file(&workshop.directory).map_err(|e| Error::io("making a temporary file in", &workshop.directory, e))?;
        let resize = |size| scratch.set_len(size).map_err(|e| Error::io("sizing a temporary file in", &workshop.directory, e));
        // qemu counts in sectors.
        resize(size.next_multiple_of(512))?;
        let scratch_input =
            Input::made(scratch.try_clone().map_err(|e| Error::io("opening", &workshop.directory, e))?, original.path())?;
        job.convert(&image, &scratch_input)?;
        resize(size)?;
        let raw = RawSource::new(Input::made(scratch, original.path())?)?;
        Ok(Self { original, raw })
    }
}

impl Source for ConvertedSource {
    fn size(&self) -> u64 {
        self.raw.size()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent> {
        self.raw.extent(offset)
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.raw.read(buf, offset)
    }

    fn check_unchanged(&self) -> Result<()> {
        self.original.check_unchanged()
    }
}

struct Job<'a> {
    workshop: &'a Workshop,
    original: &'a Original,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Asks qemu-img for the size, and whether there is more to the image than its file.
    fn virtual_size(&self, image: &str) -> Result<u64> {
        let mut command = Command::new(&self.workshop.qemu_img);
        command.args(["info", "--output=json", "--", image]);
        let output = self.run(command, 0, Some(Instant::now() + INFO_MAX), || Ok(()))?;
        let info: Value = serde_json::from_slice(&output)
            .map_err(|e| self.bad(format!("what qemu-img says of it can't be understood: {e}")))?;
        if let Some(backing) = info["backing-filename"].as_str() {
            return Err(Error::UnsupportedImage {
                path: self.original.path().to_owned(),
                reason: format!("it has the backing file '{}'", crate::name::escape(backing.as_bytes())),
                hint: "convert it first, with 'qemu-img convert -O qcow2'".to_owned(),
            });
        }
        if info["encrypted"].as_bool() == Some(true) {
            return Err(self.bad("it is encrypted; decrypt it first, with 'qemu-img convert' and its key".to_owned()));
        }
        info["virtual-size"].as_u64().ok_or_else(|| self.bad("qemu-img does not tell its size".to_owned()))
    }

    fn convert(&self, image: &str, scratch: &Input) -> Result<()> {
        let target = json!({ "driver": "raw", "file": { "driver": "file", "filename": scratch.path_for_others() } });
        let mut command = Command::new(&self.workshop.qemu_img);
        command.args(["convert", "-p", "-n", "--target-is-zero", "-S", "4k", "--", image, &format!("json:{target}")]);
        let watch = || {
            let stat = rustix::fs::fstatvfs(scratch.file()).map_err(|e| Error::io("reading", &self.workshop.directory, e))?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < self.workshop.floor {
                return Err(Error::DiskFull { path: self.workshop.directory.clone(), free, floor: self.workshop.floor });
            }
            self.progress.advance(0, scratch.length());
            Ok(())
        };
        self.run(command, scratch.length(), None, watch).map(drop)
    }

    /// Runs qemu-img to its end, or ends it: on an error nothing of it is left running. Gives what it printed.
    fn run(
        &self,
        mut command: Command,
        file_max: u64,
        deadline: Option<Instant>,
        watch: impl Fn() -> Result<()>,
    ) -> Result<Vec<u8>> {
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::UnsupportedImage {
                path: self.original.path().to_owned(),
                reason: self.original.need(),
                hint: "install qemu-img (package qemu-utils), which can read it".to_owned(),
            },
            _ => Error::io("starting", Path::new(&self.workshop.qemu_img), e),
        })?;
        let mut child = Running(child);
        limit(&child.0, Resource::As, MEMORY_MAX);
        limit(&child.0, Resource::Fsize, file_max);
        let (printed, said) = (drain(child.0.stdout.take()), drain(child.0.stderr.take()));
        let status = self.wait(&mut child, deadline, watch)?;
        let text = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
        let (printed, said) = (text(printed), text(said));
        if status.success() {
            return Ok(printed);
        }
        let said = String::from_utf8_lossy(&said);
        // Without the long json: name.
        let said = said.rsplit_once("}': ").map_or(said.trim(), |(_, reason)| reason.trim());
        let said: String = said.chars().take(500).collect();
        Err(self.bad(if said.is_empty() {
            format!("qemu-img could not read it ({status})")
        } else {
            format!("qemu-img can't read it: {said}")
        }))
    }

    fn wait(&self, child: &mut Running, deadline: Option<Instant>, watch: impl Fn() -> Result<()>) -> Result<ExitStatus> {
        loop {
            if let Some(status) =
                child.0.try_wait().map_err(|e| Error::io("waiting for", Path::new(&self.workshop.qemu_img), e))?
            {
                return Ok(status);
            }
            if self.progress.cancelled() {
                return Err(Error::Interrupted);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(self.bad(format!("qemu-img had nothing to say of it within {} s", INFO_MAX.as_secs())));
            }
            watch()?;
            std::thread::sleep(TICK);
        }
    }

    fn bad(&self, reason: String) -> Error {
        bad(self.original.path(), reason)
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended, and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn limit(child: &Child, resource: Resource, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended already. Where a limit can't be set, it goes without: it is a second line.
        let _ = rustix::process::prlimit(Some(pid), resource, limit);
    }
}

/// Reads a pipe to its end, so that nobody waits for room in it; keeps the beginning.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            // What can't be read was not said.
            let _ = pipe.by_ref().take(OUTPUT_MAX).read_to_end(&mut kept);
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        kept
    })
}

/// A file without a name. Where the file system has no `O_TMPFILE`: one that loses it at once.
fn scratch_file(directory: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(fd) => return Ok(fd.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    let path = directory.join(format!("convert-{}.tmp", crate::ids::OperationId::new()));
    let fd = rustix::fs::open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
    std::fs::remove_file(&path)?;
    Ok(fd.into())
}
