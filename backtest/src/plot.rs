//! The result as a picture.
