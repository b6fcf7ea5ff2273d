//! The compute API of a GPU cloud: a client, and a simulator.
