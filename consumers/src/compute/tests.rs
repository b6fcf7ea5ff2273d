//! The driver on a real cell, before a simulated cloud over the wire.
