//! gRPC calls: their resource is known only in their handlers, so the layer opens a scope and the handler takes the seat in it.

use std::sync::Arc;

use api::Error;
use tokio::sync::OnceCell;

use super::{FlowControl, Permit, TooMany};
use crate::registry::access::{Attributes, UserInfo};

tokio::task_local! {
    static CALL: Arc<Call>;
}

struct Call {
    control: Arc<FlowControl>,
    seat: OnceCell<Permit>,
}

/// Runs a call; the seat that it takes is given back when this ends.
pub async fn scope<F: Future>(control: Arc<FlowControl>, call: F) -> F::Output {
    CALL.scope(
        Arc::new(Call {
            control,
            seat: OnceCell::new(),
        }),
        call,
    )
    .await
}

/// Waits for the call's turn. The first of a call's requests decides where it queues.
///
/// # Errors
/// 429 when there are too many before it.
pub async fn enter(user: &UserInfo, attributes: &Attributes) -> Result<(), Error> {
    let Ok(call) = CALL.try_with(Arc::clone) else {
        return Ok(());
    };
    let seat = call
        .seat
        .get_or_try_init(|| call.control.admit(user, attributes, |_| 1))
        .await;
    seat.map(drop)
        .map_err(|TooMany(_)| Error::too_many_requests(super::TOO_MANY, 1))
}
