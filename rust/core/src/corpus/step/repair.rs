//! Damage of other programs.

use std::collections::BTreeMap;

use super::{Current, Findings, Outcome, Step, StepWorker};
use crate::repair::{Repairs, Scratch, repair};

/// Decodes entities that are left over, and what was read as another encoding.
#[derive(Debug, Clone, Copy)]
pub struct Repair;

#[derive(Default)]
struct Repairer {
    scratch: Scratch,
    repairs: Repairs,
}

impl Step for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Repairer::default())
    }
}

impl StepWorker for Repairer {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        match repair(document.text, &mut self.scratch) {
            None => Outcome::Keep,
            Some((text, repairs)) => {
                self.repairs.entities += repairs.entities;
                self.repairs.characters += repairs.characters;
                Outcome::Rewrite(text.to_owned())
            }
        }
    }

    fn findings(self: Box<Self>) -> Findings {
        let Repairs { entities, characters } = self.repairs;
        let counts = [("entity", entities as u64), ("misread", characters as u64)];
        Findings { replaced: BTreeMap::from(counts), ..Findings::default() }
    }
}
