//! What MMCL records: encodings with views of them, and the terms of contrast.

use super::settings::Shares;
use super::{CODING, INSTANCE, Mmcl, SENTIMENT};
use crate::error::Result;
use crate::nn::contrast::{self, Classes, Units};
use crate::nn::linear;
use crate::ops::Act;
use crate::ops::views::ViewRule;
use crate::recipe::blocks::Text;
use crate::recipe::cx::{Cx, StreamVars};
use crate::recipe::self_mm::reading;
use crate::tape::{Tape, Var};

impl Mmcl {
    /// h_t where it is no LSTM's.
    fn vector(&self, cx: &mut Cx<'_>) -> Result<Var> {
        let x = match &self.text {
            Text::Bert(bert) => {
                let (tokens, train) = (cx.tokens()?, cx.training());
                let how = reading(self.config.bert.pooling);
                bert.record(cx.tape, cx.params, &tokens, how, train)?
            }
            Text::Features(_) => {
                let stream = cx.stream(0)?;
                cx.tape.reshape(stream.values, &[cx.batch(), stream.width])?
            }
        };
        linear(cx.tape, cx.params, "text_encoder.linear_1", x, Act::None)
    }

    /// h_t, h_s of each, and in training with a weight on coding `[2n, width]` of two views of each.
    pub(super) fn encoded(&self, cx: &mut Cx<'_>) -> Result<(Var, Vec<Var>, Vec<Var>)> {
        let (n, d, train) = (cx.batch(), self.settings.model.width, cx.training());
        let coding = train && self.settings.contrast.coding > 0.0;
        let first = usize::from(matches!(self.text, Text::Features(_)));
        let mut inputs = Vec::new();
        if let Some(lstm) = &self.lstm {
            let stream = cx.stream(0)?;
            let lengths = lengths_of(cx, stream)?;
            inputs.push(lstm.input(cx.tape, cx.params, stream.values, lengths, train)?);
        }
        for (i, sense) in self.senses.iter().enumerate() {
            let stream = cx.stream(first + i)?;
            let (mut x, mut lengths) = (stream.values, lengths_of(cx, stream)?);
            if coding {
                let Shares { run, channels, noise } = self.settings.views;
                let all = cx.tape.views(x, lengths, ViewRule { run, channels, noise })?;
                (x, lengths) = (all.rows, all.lengths);
            }
            inputs.push(sense.encoder.input(cx.tape, cx.params, x, lengths, train)?);
        }
        // LSTMs wait for each other: their recurrences run side by side.
        let mut states = cx.tape.lstms(&inputs)?.into_iter();
        let text = match (&self.lstm, &self.lstm.as_ref().and_then(|_| states.next())) {
            (Some(lstm), Some(state)) => lstm.output(cx.tape, cx.params, state.last, train)?,
            _ => self.vector(cx)?,
        };
        let (mut own, mut views) = (Vec::new(), Vec::new());
        for (sense, state) in self.senses.iter().zip(states) {
            let h = sense.encoder.output(cx.tape, cx.params, state.last, train)?;
            if !coding {
                own.push(h);
                continue;
            }
            let all = cx.tape.reshape(h, &[3 * n * d])?;
            let (h, both) = (cx.tape.slice(all, 0, n * d)?, cx.tape.slice(all, n * d, 2 * n * d)?);
            own.push(cx.tape.reshape(h, &[n, d])?);
            views.push(cx.tape.reshape(both, &[2 * n, d])?);
        }
        Ok((text, own, views))
    }

    /// The terms of contrast, of the encodings `own`, `views` of them and the predictions of them.
    pub(super) fn contrast(
        &self,
        cx: &mut Cx<'_>,
        own: &[Var],
        views: &[Var],
        made: &[Var],
    ) -> Result<()> {
        let c = self.settings.contrast;
        let temperature = c.temperature as f32;
        if !views.is_empty() {
            let codes = self.senses.iter().zip(views);
            let codes: Result<Vec<Var>> =
                codes.map(|(s, v)| s.code.record(cx.tape, cx.params, *v)).collect();
            let codes = stacked(cx.tape, &codes?)?;
            let codes = Units::of(cx.tape, codes)?;
            let term = contrast::nt_xent(cx.tape, codes, temperature)?;
            cx.loss(CODING, term)?;
        }
        if made.is_empty() || (c.instance == 0.0 && c.sentiment == 0.0) {
            return Ok(());
        }
        let made = stacked(cx.tape, made)?;
        let made = Units::of(cx.tape, made)?;
        if c.instance > 0.0 {
            let mut own = stacked(cx.tape, own)?;
            if c.detach_target {
                own = cx.tape.detach(own)?;
            }
            let own = Units::of(cx.tape, own)?;
            let term = contrast::matched(cx.tape, made, own, temperature)?;
            cx.loss(INSTANCE, term)?;
        }
        if c.sentiment > 0.0 {
            let target = cx.target();
            let of = if self.classes { Classes::Ids(target) } else { Classes::Signs(target) };
            let term = contrast::by_class(cx.tape, made, of, temperature)?;
            cx.loss(SENTIMENT, term)?;
        }
        Ok(())
    }
}

fn lengths_of(cx: &mut Cx<'_>, stream: StreamVars) -> Result<Var> {
    stream.lengths.map_or_else(|| cx.whole_lengths(stream), Ok)
}

/// One behind the other under a new first axis.
fn stacked(tape: &mut Tape, parts: &[Var]) -> Result<Var> {
    match parts {
        [one] => {
            let shape = [&[1], tape.shape(*one)].concat();
            tape.reshape(*one, &shape)
        }
        all => Ok(tape.stack(all, all)),
    }
}
