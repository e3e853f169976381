//! The crash machine for configurations: whole tenants (entrypoint, sidecar, a gateway that does what its configuration says) get pushes of a
//! configuration, pushes of a set, owned keys, local changes, rollbacks and edits by the agent, and are killed meanwhile; then an oracle looks at what is there.
//!
//! | File | Its one job |
//! |---|---|
//! | `deed` | what is done, and what the gateway does with it |
//! | `plan` | pure: what happens in a round, from the seed |
//! | `actors` | carries it out and notes what was answered |
//! | `operator` | pushes of several files in one generation |
//! | `stage` | one tenant: start, quiet, the last proof |
//! | `kills` | who is killed, when the moment has come |
//! | `oracle` | pure: what must be true afterwards |
//! | `driver`, `report` | the rounds, several tenants at once, and their figures |

mod actors;
mod deed;
mod driver;
mod kills;
mod operator;
mod oracle;
mod plan;
mod report;
mod stage;

pub use driver::run;
