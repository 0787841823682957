#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A reply that ends in a channel, with the number of its request.
struct TestReply(u32, Sender<(u32, Result<u64, Errno>)>);

impl Reply for TestReply {
    type Outcome = u64;
    fn send(self, outcome: Result<u64, Errno>) {
        if outcome == Ok(u64::MAX) {
            panic!("asked to");
        }
        self.1.send((self.0, outcome)).unwrap();
    }
}

struct Bench {
    pool: Pool<TestReply>,
    replies: Sender<(u32, Result<u64, Errno>)>,
    answers: Receiver<(u32, Result<u64, Errno>)>,
}

/// A deadline that no test waits for.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);

impl Bench {
    fn new(threads: usize, deadline: Duration) -> Self {
        Self::with(Limits { threads, deadline, queue_requests_max: 1000, queue_bytes_max: 1000 })
    }

    fn with(limits: Limits) -> Self {
        let (replies, answers) = channel();
        Self { pool: Pool::start(limits).unwrap(), replies, answers }
    }

    fn pending(&self, n: u32) -> Pending<TestReply> {
        Pending::new("test", TestReply(n, self.replies.clone()))
    }

    fn submit(&self, n: u32, work: impl FnOnce() -> Result<u64, Errno> + Send + 'static) {
        self.pool.submit(self.pending(n), 0, Box::new(work));
    }

    /// Blocks a thread of the pool until the sender is used or dropped.
    fn block(&self, n: u32) -> Sender<()> {
        let (release, wait) = channel();
        self.submit(n, move || {
            let _ = wait.recv();
            Ok(0)
        });
        release
    }

    /// With a short deadline on a busy machine, even what does nothing may expire: until it does not.
    fn assert_goes_on(&self) {
        loop {
            self.submit(99, || Ok(99));
            match self.next() {
                (99, Ok(99)) => break,
                (99, Err(Errno::TIMEDOUT)) => {}
                other => panic!("an answer that nobody waits for: {other:?}"),
            }
        }
    }

    fn next(&self) -> (u32, Result<u64, Errno>) {
        self.answers.recv().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.pool.stop(LONG);
    }
}

#[test]
fn answers_inline_and_from_the_pool() {
    let bench = Bench::new(2, LONG);
    let slot = bench.pool.slot();
    assert!(bench.pool.run_inline(&slot, bench.pending(1), || Ok(Some(10))).is_none());
    assert_eq!(bench.next(), (1, Ok(10)));
    let back = bench.pool.run_inline(&slot, bench.pending(2), || Ok(None)).unwrap();
    bench.pool.submit(back, 0, Box::new(|| Err(Errno::NOSPC)));
    assert_eq!(bench.next(), (2, Err(Errno::NOSPC)));
}

#[test]
fn a_panic_is_an_io_error_and_the_thread_lives() {
    let bench = Bench::new(1, LONG);
    let slot = bench.pool.slot();
    bench.submit(1, || panic!("in the pool"));
    assert_eq!(bench.next(), (1, Err(Errno::IO)));
    assert!(bench.pool.run_inline(&slot, bench.pending(2), || panic!("inline")).is_none());
    assert_eq!(bench.next(), (2, Err(Errno::IO)));
    bench.submit(3, || Ok(u64::MAX));
    bench.submit(4, || Ok(4));
    assert_eq!(bench.next(), (4, Ok(4)));
}

#[test]
fn a_deadline_ends_the_wait_but_not_the_operation() {
    let bench = Bench::new(1, SHORT);
    let (finished, finish) = channel();
    let (release, wait) = channel::<()>();
    bench.submit(1, move || {
        let _ = wait.recv();
        finished.send(()).unwrap();
        Ok(1)
    });
    assert_eq!(bench.next(), (1, Err(Errno::TIMEDOUT)));
    drop(release);
    finish.recv().unwrap();
    // Its own answer was dropped: the next one is that of the next request.
    bench.assert_goes_on();
    assert!(bench.pool.expired() >= 1);
}

#[test]
fn a_deadline_holds_for_inline_operations() {
    let bench = Bench::new(1, SHORT);
    let slot = bench.pool.slot();
    let mut told = None;
    let back = bench.pool.run_inline(&slot, bench.pending(1), || {
        told = Some(bench.next());
        Ok(None)
    });
    assert!(back.is_none(), "nothing is left to queue");
    assert_eq!(told, Some((1, Err(Errno::TIMEDOUT))));
}

#[test]
fn what_expires_in_the_queue_never_runs() {
    let bench = Bench::new(1, SHORT);
    let release = bench.block(1);
    let (ran, run) = channel();
    bench.submit(2, move || {
        ran.send(()).unwrap();
        Ok(2)
    });
    let mut told = [bench.next(), bench.next()];
    told.sort_by_key(|(n, _)| *n);
    assert_eq!(told, [(1, Err(Errno::TIMEDOUT)), (2, Err(Errno::TIMEDOUT))]);
    drop(release);
    assert!(run.recv().is_err(), "its closure was dropped, not called");
    bench.assert_goes_on();
}

#[test]
fn a_full_queue_makes_the_next_one_wait() {
    for (requests, bytes) in [(1, 1000), (1000, 10)] {
        let bench = Bench::with(Limits { threads: 1, deadline: LONG, queue_requests_max: requests, queue_bytes_max: bytes });
        let release = bench.block(1);
        // Wait until the thread has taken it, so that the queue is empty.
        while !bench.pool.shared.queue.lock().is_empty() {
            std::thread::yield_now();
        }
        bench.pool.submit(bench.pending(2), 10, Box::new(|| Ok(2)));
        let (pool, pending) = (bench.pool.clone(), bench.pending(3));
        let third = std::thread::spawn(move || pool.submit(pending, 10, Box::new(|| Ok(3))));
        assert!(bench.answers.try_recv().is_err());
        drop(release);
        third.join().unwrap();
        assert_eq!([bench.next(), bench.next(), bench.next()], [(1, Ok(0)), (2, Ok(2)), (3, Ok(3))]);
    }
}

#[test]
fn the_queue_never_holds_more_than_its_limits() {
    let bench = Bench::with(Limits { threads: 2, deadline: LONG, queue_requests_max: 3, queue_bytes_max: 25 });
    let release = bench.block(0);
    let (pool, replies) = (bench.pool.clone(), bench.replies.clone());
    let submits = std::thread::spawn(move || {
        for n in 1..=100 {
            pool.submit(Pending::new("test", TestReply(n, replies.clone())), 10, Box::new(|| Ok(1)));
        }
    });
    drop(release);
    submits.join().unwrap();
    let answers: std::collections::BTreeSet<u32> = (0..=100).map(|_| bench.next().0).collect();
    assert_eq!(answers.len(), 101);
    let (requests, bytes) = bench.pool.shared.queue.lock().most;
    assert!(requests <= 3 && bytes <= 25, "{requests} requests, {bytes} bytes");
}

#[test]
fn stop_runs_what_is_queued_and_refuses_what_comes_after() {
    let bench = Bench::new(1, LONG);
    let release = bench.block(1);
    bench.submit(2, || Ok(2));
    assert!(!bench.pool.stop(Duration::from_millis(1)), "one still runs");
    drop(release);
    assert!(bench.pool.stop(LONG));
    bench.submit(3, || Ok(3));
    assert_eq!([bench.next(), bench.next(), bench.next()], [(1, Ok(0)), (2, Ok(2)), (3, Err(Errno::NOTCONN))]);
}
