//! Jobs over a real store: what is kept, what a crash and a close make of them.

use super::record::JobRecord;
use super::table::{ENDED_MAX, recovered};
use super::{Job, JobId, JobKind, JobState, Task};
use crate::catalog::records::Change;
use crate::error::{Error, Noun};
use crate::name::Name;
use crate::store::{Context, Store, StoreOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions { create: true, ..StoreOptions::default() }).expect("opening the store")
}

fn context(store: &Store) -> Arc<Context> {
    Arc::clone(store.context().expect("it is open"))
}

fn begin(store: &Store, kind: JobKind, subject: &str) -> Job {
    context(store).begin_job(kind, subject.to_owned(), None).expect("beginning a job")
}

/// Leaves a store as a kill does: its jobs' guards say nothing that is noted, what was committed before stays.
fn crash(store: &Store, jobs: Vec<Job>) {
    context(store).jobs.shut(Duration::ZERO);
    drop(jobs);
    store.close().expect("closing the store");
}

#[test]
fn a_job_is_kept_with_what_it_did() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let job = begin(&store, JobKind::Scrub, "volume 'db'");
    let id = job.id();
    assert_eq!((id, store.job(id).expect("it is known").state), (JobId(1), JobState::InProgress));
    job.progress(3, 10);
    job.waiting_for(Some("an open file".to_owned()));
    let info = store.job(id).expect("it is known");
    assert_eq!((info.done, info.total, info.waiting_for.as_deref()), (3, 10, Some("an open file")));
    job.progress(10, 10);
    job.complete();
    let failed = begin(&store, JobKind::Export, "volume 'db'");
    failed.fail(&Error::io("writing", "/x", std::io::Error::from_raw_os_error(28)));
    drop(begin(&store, JobKind::Export, "volume 'db2'"));
    let before = store.jobs();
    store.close().expect("closing");
    drop(store);

    let store = open(dir.path());
    let jobs = store.jobs();
    assert_eq!(jobs, before, "the same after a restart");
    assert_eq!(jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((jobs[0].state, jobs[0].done, jobs[0].error.as_deref()), (JobState::Completed, 10, None));
    assert!(jobs[0].started_ns.is_some() && jobs[0].ended_ns >= jobs[0].started_ns);
    let error = jobs[1].error.as_deref().expect("it says why");
    assert!(error.starts_with("writing /x: No space left"), "{error}");
    assert_eq!((jobs[2].state, jobs[2].error.as_deref()), (JobState::Error, Some("interrupted")));
    assert!(matches!(store.job(JobId(9)), Err(Error::NotFound { noun: Noun::Job, .. })));
}

fn record(id: u64, kind: JobKind, state: JobState) -> JobRecord {
    JobRecord {
        id: JobId(id),
        kind,
        subject: "layers of 'db'".to_owned(),
        state,
        done: 3,
        total: 10,
        created_ns: 1,
        started_ns: Some(2),
        ended_ns: None,
        error: None,
        task: None,
    }
}

#[test]
fn what_an_open_makes_of_every_job() {
    use JobState::{Cancelled, Completed, Error, InProgress, Pending};
    let state = |kind, state| recovered(&record(1, kind, state), 5).map(|after| (after.state, after.ended_ns, after.error));
    let crashed = Some((Error, Some(5), Some("interrupted by a crash".to_owned())));
    for kind in [JobKind::Import, JobKind::Image, JobKind::Export, JobKind::Scrub] {
        assert_eq!(state(kind, Pending), crashed);
        assert_eq!(state(kind, InProgress), crashed);
    }
    assert_eq!(state(JobKind::Merge, Pending), Some((Pending, None, None)));
    assert_eq!(state(JobKind::Merge, InProgress), Some((Pending, None, None)));
    for ended in [Completed, Error, Cancelled] {
        assert_eq!(state(JobKind::Merge, ended), None);
        assert_eq!(state(JobKind::Export, ended), None);
    }
}

#[test]
fn after_a_crash_a_job_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    crash(&store, vec![begin(&store, JobKind::Scrub, "everything"), begin(&store, JobKind::Export, "x")]);
    drop(store);
    for job in open(dir.path()).jobs() {
        assert_eq!((job.state, job.error.as_deref()), (JobState::Error, Some("interrupted by a crash")));
    }
}

#[test]
fn a_merge_goes_on_as_the_same_job_or_is_found_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let context = context(&store);
    let leave = |id| {
        let change = Change::PutJob(record(id, JobKind::Merge, JobState::Pending));
        context.catalog.begin().commit_unlabelled(vec![change]).expect("leaving a job");
    };
    // The collector may be faster in finding that nothing is left; some time it isn't.
    let taken_up = (1..200).find(|id| {
        leave(*id);
        let other = begin(&store, JobKind::Merge, "layers of 'other'");
        assert_ne!(other.id(), JobId(*id), "it is of another subject");
        other.complete();
        leave(*id);
        let job = begin(&store, JobKind::Merge, "layers of 'db'");
        assert!(matches!(store.cancel_job(job.id()), Err(Error::JobRefused { .. })), "a merge can't be cancelled");
        let same = job.id() == JobId(*id);
        job.complete();
        same
    });
    assert!(taken_up.is_some());
    leave(1000);
    context.nothing_left(JobKind::Merge).expect("noting that");
    assert_eq!(store.job(JobId(1000)).expect("it is known").state, JobState::Completed);
}

#[test]
fn a_cancel_reaches_the_worker_and_a_close_makes_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let job = begin(&store, JobKind::Scrub, "everything");
    let id = job.id();
    store.cancel_job(id).expect("it is worked on");
    assert!(job.is_cancelled());
    assert_eq!(store.wait_for_job(id, Duration::ZERO).expect("it is known").state, JobState::InProgress);
    job.fail(&Error::Interrupted);
    assert_eq!(store.wait_for_job(id, Duration::from_secs(60)).expect("it is known").state, JobState::Cancelled);
    assert!(matches!(store.cancel_job(id), Err(Error::JobRefused { .. })), "it has ended");

    let job = begin(&store, JobKind::Scrub, "everything");
    let id = job.id();
    let worker = std::thread::spawn(move || {
        while !job.is_cancelled() {
            std::thread::yield_now();
        }
        job.fail(&Error::Interrupted);
    });
    store.close().expect("closing");
    worker.join().expect("the worker");
    drop(store);
    let store = open(dir.path());
    let info = store.job(id).expect("it is known");
    assert_eq!((info.state, info.error.as_deref()), (JobState::Error, Some("interrupted: the store was closed")));
    assert!(!info.is_resumable(), "nothing is known of its task");
    assert!(matches!(context(&store).requeue_job(id), Err(Error::JobRefused { .. })));
}

#[test]
fn the_last_of_each_kind_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    begin(&store, JobKind::Export, "the only export").complete();
    for _ in 0..ENDED_MAX + 3 {
        begin(&store, JobKind::Merge, "m").complete();
    }
    let jobs = store.jobs();
    assert_eq!(jobs.len(), ENDED_MAX + 1);
    assert_eq!((jobs[0].id, jobs[1].id), (JobId(1), JobId(5)), "the oldest merges went, the export stayed");
    store.close().expect("closing");
    drop(store);
    assert_eq!(open(dir.path()).jobs(), jobs);
}

#[test]
fn a_task_is_kept_whatever_bytes_its_path_has() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff\xfe")).to_owned();
    let task = Task::Import {
        name: Name::new(b"\xff").expect("a name"),
        path: path.clone(),
        sha256: None,
        allow_backing_in: vec![path],
    };
    let job = context(&store).begin_job(JobKind::Import, "i".to_owned(), Some(task.clone())).expect("beginning");
    let id = job.id();
    drop(job);
    store.close().expect("closing");
    drop(store);
    let store = open(dir.path());
    let info = store.job(id).expect("it is known");
    assert_eq!(info.task.as_ref(), Some(&task));
    assert!(info.is_resumable());
}

#[test]
fn an_import_that_failed_is_resumed_under_its_number() {
    struct Silent;
    impl crate::image::Progress for Silent {
        fn advance(&self, _: u64, _: u64) {}
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("store"));
    let file = dir.path().join("disk.raw");
    let name = Name::new("i").expect("a name");
    store.import_image(&name, &file, &crate::image::ImportOptions::default(), &Silent).expect_err("there is no file");
    let id = store.jobs()[0].id;
    assert_eq!(store.job(id).expect("it is known").state, JobState::Error);
    std::fs::write(&file, [7; 10_000]).expect("writing the file");
    store.resume_job(id, &Silent).expect("now there is one");
    let info = store.job(id).expect("it is known");
    assert_eq!((info.state, info.done, info.total, info.error), (JobState::Completed, 10_000, 10_000, None));
    assert_eq!(store.image_info(&name).expect("it was imported").size, 10_000);
    assert!(matches!(store.resume_job(id, &Silent), Err(Error::JobRefused { .. })), "it is completed");
    assert_eq!(store.jobs().len(), 1);
}
