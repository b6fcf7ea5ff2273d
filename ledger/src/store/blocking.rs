//! sqlx is async, the port blocks: a small runtime stands between them.

use std::sync::Arc;

/// Runs sqlx for callers that block, on the caller's own thread.
pub(super) struct Blocking(Option<tokio::runtime::Runtime>);

impl Blocking {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Arc::new(Self(Some(runtime))))
    }

    pub(super) fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match &self.0 {
            Some(runtime) => runtime.block_on(future),
            None => Err(sqlx::Error::WorkerCrashed),
        }
    }
}

impl Drop for Blocking {
    /// A runtime may not be dropped where another one runs; shutting it down in the background may.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
