//! Drops volumes on a thread of its own: the last reference to a deleted one removes its layer, which may wait for the disk.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// What the reaper is sent.
enum Parcel {
    /// To be dropped.
    Drop(Box<dyn Any + Send>),
    /// Answered when everything sent before is dropped.
    Mark(Sender<()>),
}

/// The way to the thread, which ends when this and every guard are gone.
pub(super) struct Reaper {
    sender: Sender<Parcel>,
}

impl Reaper {
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, parcels) = channel();
        std::thread::Builder::new().name("outcrop-reaper".to_owned()).spawn(move || {
            for parcel in parcels {
                match parcel {
                    // A panic of the store while it removes a layer must not end the reaper.
                    Parcel::Drop(value) => {
                        let _ = crate::pool::guarded("close", || {
                            drop(value);
                            Ok(())
                        });
                    }
                    Parcel::Mark(done) => drop(done.send(())),
                }
            }
        })?;
        Ok(Self { sender })
    }

    /// Guards a reference: dropped anywhere, it ends here.
    pub(super) fn guard<T: Send + Sync + 'static>(&self, value: Arc<T>) -> Reaping<T> {
        Reaping { value: Some(value), sender: self.sender.clone() }
    }

    /// Returns when all that was dropped before is gone; false if that takes longer than `limit`.
    pub(super) fn drain(&self, limit: Duration) -> bool {
        let (done, wait) = channel();
        // An error of another kind means that the thread ended: then nothing is left either.
        self.sender.send(Parcel::Mark(done)).is_err() || wait.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
    }
}

/// A reference whose drop never blocks.
pub(crate) struct Reaping<T: Send + Sync + 'static> {
    value: Option<Arc<T>>,
    sender: Sender<Parcel>,
}

impl<T: Send + Sync + 'static> Clone for Reaping<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), sender: self.sender.clone() }
    }
}

impl<T: Send + Sync + 'static> Deref for Reaping<T> {
    type Target = Arc<T>;
    #[expect(clippy::expect_used, reason = "only drop takes it")]
    fn deref(&self) -> &Arc<T> {
        self.value.as_ref().expect("there until dropped")
    }
}

impl<T: Send + Sync + 'static> Drop for Reaping<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            // Without the thread, which can't end before its senders do, it is dropped here.
            let _ = self.sender.send(Parcel::Drop(Box::new(value)));
        }
    }
}
