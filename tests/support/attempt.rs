//! Scenarios in which a program of somebody else's may do what they are not about.

use crate::requirement::say;

/// How often a scenario is tried.
const ATTEMPTS: usize = 3;

/// This attempt says nothing, and why.
#[derive(Debug)]
pub struct Void(pub &'static str);

impl Void {
    /// Of a hundred kills of a stub on systrap runsc 20240729 does not get over one or two: the sandbox lives, and all in it
    /// wait for ever.
    pub const HUNG: Self = Self("runsc did not get over the kill");
}

/// Tries until an attempt says something. Each that does not is shown, also where the next one does.
pub fn in_some_attempts(mut scenario: impl FnMut() -> Result<(), Void>) {
    let voids = (0..ATTEMPTS).map_while(|_| scenario().err()).inspect(|Void(why)| say("attempt says nothing", why));
    assert!(voids.count() < ATTEMPTS, "nothing was said in {ATTEMPTS} attempts");
}
