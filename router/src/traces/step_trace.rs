//! What is recorded of a step: decided before it from the requests that it is for, done after it.

use std::time::{Duration, Instant};

use guildhall_telemetry::{Span, TraceContext};

use super::spans::STEP;

/// What a step's calls need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepContext {
    /// The span of the step, which is the parent of what follows; its flag says whether nodes record spans too.
    pub(crate) context: TraceContext,
    /// Whether spans are noted; whether they are recorded may be seen at the end only.
    pub(crate) noted: bool,
}

/// One of the sequences of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traced {
    /// What it is in the middle of.
    pub(crate) phase: TraceContext,
    /// Whether its steps are recorded.
    pub(crate) deep: bool,
}

/// A step that may be recorded.
#[derive(Debug)]
pub(crate) struct StepTrace {
    pub(crate) step: StepContext,
    /// The phase whose part it is.
    parent: TraceContext,
    links: Vec<TraceContext>,
    /// It is recorded if it takes so long.
    record_from: Duration,
}

impl StepTrace {
    /// Puts a step into the trace of one of its sequences: one that is traced deeply, else one that is recorded, else one
    /// that has a trace at all. Nothing if none has.
    pub(crate) fn of(
        sequences: impl Iterator<Item = Traced>,
        slow_step: Option<Duration>,
    ) -> Option<Self> {
        let mut all: Vec<Traced> = sequences.collect();
        let rank = |of: &Traced| (of.deep, of.phase.is_sampled());
        // The first of the best.
        let best = (0..all.len()).rev().max_by_key(|&at| rank(&all[at]))?;
        let Traced { phase: parent, deep } = all.remove(best);
        let record_from = if deep { Some(Duration::ZERO) } else { slow_step };
        let noted = parent.is_sampled() && record_from.is_some();
        let context = if noted { parent.child() } else { parent };
        let others = all.iter().map(|of| of.phase).filter(|phase| noted && phase.is_sampled());
        Some(Self {
            step: StepContext { context: context.with_sampled(deep), noted },
            parent,
            links: others.collect(),
            record_from: record_from.unwrap_or(Duration::MAX),
        })
    }

    /// Records it with what was noted of it, if it is worth it. `sizes`: sequences and tokens.
    pub(crate) fn end(
        self,
        began: Instant,
        sizes: [usize; 2],
        noted: Vec<Span>,
        failure: Option<String>,
    ) {
        let now = Instant::now();
        if !self.step.noted || now.duration_since(began) < self.record_from {
            return;
        }
        noted.into_iter().for_each(Span::record);
        let [sequences, tokens] = sizes.map(|size| size as i64);
        let span = Span::new(&STEP, self.step.context, began..now)
            .under(self.parent)
            .linked(self.links)
            .with("guildhall.sequences", sequences)
            .with("guildhall.tokens", tokens);
        match failure {
            Some(why) => span.failed(why).record(),
            None => span.record(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(sampled: bool, deep: bool) -> Traced {
        Traced { phase: TraceContext::root().with_sampled(sampled), deep }
    }

    fn of(sequences: &[Traced], slow_step: Option<Duration>) -> Option<StepTrace> {
        StepTrace::of(sequences.iter().copied(), slow_step)
    }

    #[test]
    fn a_step_is_part_of_the_first_deep_trace_and_linked_to_the_others() {
        let all =
            [traced(false, false), traced(true, false), traced(true, true), traced(true, true)];
        let trace = of(&all, None).unwrap();
        assert_eq!(trace.parent, all[2].phase);
        assert_ne!(trace.step.context.span_id, trace.parent.span_id);
        assert!(trace.step.noted && trace.step.context.is_sampled());
        assert_eq!(trace.links, [all[1].phase, all[3].phase]);
    }

    #[test]
    fn without_a_deep_trace_only_slow_steps_are_noted_and_nodes_record_nothing() {
        let all = [traced(true, false)];
        let trace = of(&all, Some(Duration::from_millis(5))).unwrap();
        assert!(trace.step.noted && !trace.step.context.is_sampled());
        assert_eq!(trace.record_from, Duration::from_millis(5));
        let trace = of(&all, None).unwrap();
        assert!(!trace.step.noted && !trace.step.context.is_sampled());
    }

    #[test]
    fn a_trace_that_is_not_recorded_is_passed_on_for_logs() {
        let all = [traced(false, false)];
        let trace = of(&all, Some(Duration::ZERO)).unwrap();
        assert_eq!(trace.step, StepContext { context: all[0].phase, noted: false });
        assert!(of(&[], Some(Duration::ZERO)).is_none());
    }
}
