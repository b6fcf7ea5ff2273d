//! The metering agent of a GPU node.
