//! Logic in files: `if-...`, `else`, `for...` and their ends. Pure.
//!
//! A line stands in zero, one or more *lanes*: each `for` makes one for every item, each condition
//! keeps those it holds for. A line is repeated for every lane before the next line is read, and
//! `%(_)` in its value is the lane's item, as in uWSGI. Beyond uWSGI 2.0, blocks may be nested and have `else`.

use super::error::Origin;

/// One reading of a line: the value of `%(_)`, if a block gives one.
pub(super) type Lane = Option<String>;

#[derive(Debug)]
struct Block {
    key: String,
    origin: Origin,
    /// Lanes outside.
    outside: Vec<Lane>,
    /// Lanes of a condition's `else`; none for a loop, or when it has been taken.
    otherwise: Option<Vec<Lane>>,
}

/// The blocks that are open.
#[derive(Debug)]
pub(super) struct Blocks {
    open: Vec<Block>,
    lanes: Vec<Lane>,
}

impl Blocks {
    pub(super) fn new() -> Blocks {
        Blocks { open: Vec::new(), lanes: vec![None] }
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Opens a loop over the items that `items` gives for each lane.
    pub(super) fn open_loop(&mut self, key: &str, origin: &Origin, mut items: impl FnMut(&Lane) -> Vec<String>) {
        let inside = self.lanes.iter().flat_map(|lane| items(lane).into_iter().map(Some)).collect();
        let outside = std::mem::replace(&mut self.lanes, inside);
        self.open.push(Block { key: key.into(), origin: origin.clone(), outside, otherwise: None });
    }

    /// Opens a condition. For each lane `test` tells whether it holds, and the value it gives `%(_)`.
    pub(super) fn open_condition(&mut self, key: &str, origin: &Origin, mut test: impl FnMut(&Lane) -> (bool, Lane)) {
        let (mut inside, mut otherwise) = (Vec::new(), Vec::new());
        for lane in &self.lanes {
            let (holds, value) = test(lane);
            if holds { inside.push(value.or_else(|| lane.clone())) } else { otherwise.push(lane.clone()) }
        }
        let outside = std::mem::replace(&mut self.lanes, inside);
        self.open.push(Block { key: key.into(), origin: origin.clone(), outside, otherwise: Some(otherwise) });
    }

    /// Takes the other side of the innermost condition.
    pub(super) fn otherwise(&mut self, floor: usize) -> Result<(), String> {
        if self.open.len() <= floor {
            return Err("else without a condition before it".into());
        }
        match self.open.last_mut().and_then(|block| block.otherwise.take()) {
            Some(lanes) => {
                self.lanes = lanes;
                Ok(())
            }
            None => Err("a second else, or an else in a loop".into()),
        }
    }

    /// Closes the innermost block, if it is one of those above `floor`.
    pub(super) fn close(&mut self, floor: usize) -> Result<(), String> {
        if self.open.len() <= floor {
            return Err("an end without a block that it ends".into());
        }
        if let Some(block) = self.open.pop() {
            self.lanes = block.outside;
        }
        Ok(())
    }

    /// Key and origin of the innermost block above `floor`.
    pub(super) fn unclosed(&self, floor: usize) -> Option<(&str, &Origin)> {
        self.open.get(floor..)?.last().map(|block| (block.key.as_str(), &block.origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn loops_and_conditions_nest() {
        let mut blocks = Blocks::new();
        blocks.open_loop("for", &Origin::Whole, |_| items("a b c"));
        assert_eq!(blocks.lanes().len(), 3);
        blocks.open_condition("if", &Origin::Whole, |lane| (lane.as_deref() == Some("b"), Some("tested".into())));
        assert_eq!(blocks.lanes(), [Some("tested".to_owned())]);
        blocks.otherwise(0).unwrap();
        assert_eq!(blocks.lanes(), [Some("a".to_owned()), Some("c".to_owned())]);
        assert!(blocks.otherwise(0).is_err());
        blocks.close(0).unwrap();
        assert_eq!(blocks.lanes().len(), 3);
        assert_eq!(blocks.unclosed(0).unwrap().0, "for");
        blocks.close(0).unwrap();
        assert_eq!(blocks.lanes(), [None]);
        assert!(blocks.close(0).is_err());
    }

    #[test]
    fn a_file_cannot_end_a_block_of_the_one_that_includes_it() {
        let mut blocks = Blocks::new();
        blocks.open_condition("if", &Origin::Whole, |_| (true, None));
        assert!(blocks.close(1).is_err());
        assert!(blocks.otherwise(1).is_err());
    }
}
