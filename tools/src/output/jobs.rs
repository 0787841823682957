//! Jobs as text.

use super::tables::{NONE, both, local, pairs, plain, table};
use crate::operations::jobs::JobView;
use crate::size::human;
use outcrop_store::jobs::JobState;

/// Several, one a line.
pub fn jobs(views: &[JobView]) -> String {
    let rows = views.iter().map(|view| {
        [view.id.to_string(), view.kind.clone(), view.state.to_string(), done(view), local(&view.created), plain(&view.subject)]
    });
    table(["ID", "KIND", "STATE", "DONE", "CREATED", "SUBJECT"], &[0, 3], rows)
}

/// One, with all there is.
pub fn job(view: &JobView) -> String {
    let time = |time: &Option<String>| time.as_deref().map_or_else(|| NONE.to_owned(), local);
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| NONE.to_owned(), plain);
    pairs(&[
        ("id", view.id.to_string()),
        ("kind", view.kind.clone()),
        ("subject", plain(&view.subject)),
        ("state", view.state.to_string()),
        ("done", if view.total == 0 { NONE.to_owned() } else { format!("{} of {}", both(view.done), both(view.total)) }),
        ("created", local(&view.created)),
        ("started", time(&view.started)),
        ("ended", time(&view.ended)),
        ("error", text(&view.error)),
        ("waiting for", text(&view.waiting_for)),
        ("resumable", if view.resumable { format!("'outcrop job resume {}'", view.id) } else { "no".to_owned() }),
    ])
}

/// How far it is. What is known by now of one in progress may be everything: it is not done for that.
fn done(view: &JobView) -> String {
    match (view.state, view.total) {
        (JobState::Completed, total) => human(total),
        (_, 0) => NONE.to_owned(),
        (_, total) => format!("{}%", u128::from(view.done) * 100 / u128::from(total)),
    }
}
