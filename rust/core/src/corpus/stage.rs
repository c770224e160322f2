//! From files to staged documents: everything that looks at one document at a time, in one pass.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::read::{Item, ReadOptions, read};
use super::staged::{Entry, StagedWriter};
use super::step::{Current, Outcome, Step, StepWorker};
use super::tally::Tally;
use crate::dedup::{Bands, Shingler, Shingles, Sketcher, content_hash, sum_of};
use crate::{Error, Monitor, Result};

/// What is done to every document, and what is remembered of those that are left.
pub struct Stager {
    steps: Vec<Arc<dyn Step>>,
    /// Of signatures; none if near duplicates are not looked for.
    shingler: Option<Shingler>,
    sketcher: Sketcher,
}

impl Stager {
    /// A pass with these steps, and signatures for near duplicates if wanted.
    pub fn new(steps: Vec<Arc<dyn Step>>, near: Option<(Shingler, Bands)>) -> Self {
        let (num_hashes, seed) = near.map_or((0, 0), |(shingler, bands)| (bands.num_hashes(), shingler.seed));
        Self {
            steps,
            shingler: near.map(|(shingler, _)| shingler),
            sketcher: Sketcher::new(num_hashes, seed),
        }
    }

    /// Reads files into one staged file. The monitor counts bytes of the files.
    ///
    /// # Errors
    /// [`Error::Value`] if a file has no format, [`Error::Io`] if the disk refuses, [`Error::Interrupted`] if
    /// cancelled. Documents that cannot be read are problems in the report.
    pub fn stage(&self, files: &[ReadOptions], target: &Path, monitor: &Monitor) -> Result<()> {
        let mut partition = Partition::new(self, target)?;
        for file in files {
            partition.begin_file(file.path.display().to_string());
            read(file, monitor, &mut |item| partition.add(item))?;
        }
        partition.finish()
    }
}

/// Documents on their way to one staged file.
pub struct Partition<'a> {
    stager: &'a Stager,
    workers: Vec<Box<dyn StepWorker + 'a>>,
    writer: StagedWriter,
    tally: Tally,
    file: String,
    shingles: Shingles,
    minima: Vec<u32>,
    signature: Vec<u16>,
    begun: Instant,
    spent: Duration,
    sketching: Duration,
    writing: Duration,
}

/// The stage that counts what was read.
const READ: usize = 0;

impl<'a> Partition<'a> {
    /// A partition that becomes the file `target`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be made.
    pub fn new(stager: &'a Stager, target: &Path) -> Result<Self> {
        let names = std::iter::once("read").chain(stager.steps.iter().map(|step| step.name()));
        let tally = Tally::of_stages(names);
        Ok(Self {
            stager,
            workers: stager.steps.iter().map(|step| step.worker()).collect(),
            writer: StagedWriter::create(target, stager.sketcher.num_hashes())?,
            tally,
            file: String::new(),
            shingles: Shingles::default(),
            minima: Vec::new(),
            signature: vec![0; stager.sketcher.num_hashes()],
            begun: Instant::now(),
            spent: Duration::ZERO,
            sketching: Duration::ZERO,
            writing: Duration::ZERO,
        })
    }

    /// Says which file the next documents are of.
    pub fn begin_file(&mut self, file: String) {
        self.file = file;
    }

    /// Takes the next document or problem.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk refuses.
    pub fn add(&mut self, item: Item<'_>) -> Result<()> {
        let began = Instant::now();
        match item {
            Item::Skipped { rule, reason, offset, num_bytes } => {
                let document = Current { text: "", name: "", file: &self.file, offset };
                self.tally.stages[READ].drop(rule, num_bytes, "", || document.source(), || reason);
            }
            Item::Problem { reason, offset, num_bytes } => {
                let document = Current { text: "", name: "", file: &self.file, offset };
                let stage = &mut self.tally.stages[READ];
                stage.drop("unreadable", num_bytes, "", || document.source(), || reason.clone());
                self.tally.problem(&self.file, offset, &reason);
            }
            Item::Document { text, name, offset } => self.document(text, name, offset)?,
        }
        self.spent += began.elapsed();
        Ok(())
    }

    fn document(&mut self, text: &str, name: &str, offset: u64) -> Result<()> {
        self.tally.input_sizes.add(text.len());
        self.tally.stages[READ].keep(text.len(), text.len());
        let mut text = Cow::Borrowed(text);
        let mut clock = Instant::now();
        for (worker, stage) in self.workers.iter_mut().zip(&mut self.tally.stages[READ + 1..]) {
            let document = Current { text: &text, name, file: &self.file, offset };
            let outcome = worker.apply(&document);
            let now = Instant::now();
            stage.spent += now - clock;
            clock = now;
            match outcome {
                Outcome::Drop { rule, reason } => {
                    stage.drop(&rule, text.len() as u64, &text, || document.source(), || reason);
                    return Ok(());
                }
                Outcome::Rewrite(left) => {
                    stage.keep(text.len(), left.len());
                    text = Cow::Owned(left);
                }
                Outcome::Keep => stage.keep(text.len(), text.len()),
            }
        }
        self.tally.output_sizes.add(text.len());
        self.tally.host(name, text.len());
        let content = content_hash(&text);
        let mut sum = 0;
        if let Some(shingler) = self.stager.shingler {
            let shingles = self.shingles.of(&text, shingler);
            sum = sum_of(shingles);
            self.stager.sketcher.sign(shingles, &mut self.minima, &mut self.signature);
        }
        let signed = Instant::now();
        self.sketching += signed - clock;
        let source = Current { text: &text, name, file: &self.file, offset }.source();
        let entry = Entry { name: &source, content, sum, signature: &self.signature };
        self.writer.add(&text, &entry)?;
        self.writing += signed.elapsed();
        Ok(())
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        for (worker, stage) in self.workers.into_iter().zip(&mut self.tally.stages[READ + 1..]) {
            let findings = worker.findings();
            stage.note(findings.edited_bytes, findings.replaced);
            self.tally.tasks.extend(findings.tasks);
        }
        self.tally.spent("read", self.begun.elapsed().saturating_sub(self.spent));
        self.tally.spent("sketch", self.sketching);
        self.tally.spent("write", self.writing);
        let report = self.tally.into_json().map_err(|error| Error::value(error.to_string()))?;
        self.writer.finish(&report)
    }
}
