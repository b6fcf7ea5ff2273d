//! What every store must do. Each adapter passes the same suite.
