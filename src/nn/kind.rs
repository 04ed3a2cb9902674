//! The encoders of BERT's build: by what names their files call things, and in what they differ.

/// A kind of pretrained encoder. Parameters have BERT's names everywhere but in the kind's own files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum EncoderKind {
    /// arXiv:1810.04805.
    #[default]
    Bert,
    /// arXiv:1907.11692: a vocabulary of byte pairs, positions from behind the padding's, one segment.
    Roberta,
    /// arXiv:1910.01108: BERT without segments and pooler, of half the layers.
    DistilBert,
    /// arXiv:2004.09297: positions from 2, no segments, and a bias by relative position in every layer.
    Mpnet,
}

/// The special tokens of a vocabulary, which a text gets or stands for what it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Before a text.
    pub first: &'static str,
    /// Behind it.
    pub last: &'static str,
    /// For what has no piece.
    pub unknown: &'static str,
    /// Behind shorter texts of a batch.
    pub padding: &'static str,
    /// For what is to be guessed.
    pub mask: &'static str,
}

/// Of a layer, in BERT's words and in DistilBERT's; what is not here has the same name.
const DISTILBERT: [(&str, &str); 8] = [
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
];
/// The same of MPNet's.
const MPNET: [(&str, &str); 5] = [
    ("attention.self.query", "attention.attn.q"),
    ("attention.self.key", "attention.attn.k"),
    ("attention.self.value", "attention.attn.v"),
    ("attention.output.dense", "attention.attn.o"),
    ("attention.output.LayerNorm", "attention.LayerNorm"),
];
/// Before a layer's number, in BERT's words.
const LAYER: &str = "encoder.layer.";

impl EncoderKind {
    /// All there are.
    pub const ALL: [EncoderKind; 4] =
        [EncoderKind::Bert, EncoderKind::Roberta, EncoderKind::DistilBert, EncoderKind::Mpnet];

    /// What `model_type` says in its config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            EncoderKind::Bert => "bert",
            EncoderKind::Roberta => "roberta",
            EncoderKind::DistilBert => "distilbert",
            EncoderKind::Mpnet => "mpnet",
        }
    }

    /// The kind that `model_type` names.
    pub fn named(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.model_type() == model_type)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            EncoderKind::Bert => "BERT",
            EncoderKind::Roberta => "RoBERTa",
            EncoderKind::DistilBert => "DistilBERT",
            EncoderKind::Mpnet => "MPNet",
        }
    }

    /// The class of `transformers` that is the encoder alone.
    pub fn class(self) -> &'static str {
        match self {
            EncoderKind::Bert => "BertModel",
            EncoderKind::Roberta => "RobertaModel",
            EncoderKind::DistilBert => "DistilBertModel",
            EncoderKind::Mpnet => "MPNetModel",
        }
    }

    /// Its special tokens.
    pub fn special(self) -> SpecialTokens {
        let [first, last, unknown, padding, mask] = match self {
            EncoderKind::Bert | EncoderKind::DistilBert => {
                ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"]
            }
            EncoderKind::Roberta => ["<s>", "</s>", "<unk>", "<pad>", "<mask>"],
            EncoderKind::Mpnet => ["<s>", "</s>", "[UNK]", "<pad>", "<mask>"],
        };
        SpecialTokens { first, last, unknown, padding, mask }
    }

    /// Whether it has a pooler, a layer over the state of position 0 that came with it.
    pub fn pools(self) -> bool {
        self != EncoderKind::DistilBert
    }

    /// Before a layer's number in its files, and its own words of a layer.
    fn words(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            EncoderKind::Bert | EncoderKind::Roberta => (LAYER, &[]),
            EncoderKind::DistilBert => ("transformer.layer.", &DISTILBERT),
            EncoderKind::Mpnet => (LAYER, &MPNET),
        }
    }

    /// What its files call the tensor of this name of BERT's.
    pub fn stored(self, name: &str) -> String {
        let (before, words) = self.words();
        translated(name, (LAYER, before), words.iter().copied())
    }

    /// BERT's name of a tensor that its files call so: without `bert.` or whatever comes before an
    /// encoder that is part of a larger model, and with the names that LayerNorm has today.
    pub fn plain(self, name: &str) -> String {
        let prefix = format!("{}.", self.model_type());
        let name = name.strip_prefix(&prefix).unwrap_or(name);
        let old = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
        let name = old
            .into_iter()
            .find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)))
            .unwrap_or_else(|| name.into());
        let (before, words) = self.words();
        translated(&name, (before, LAYER), words.iter().map(|(bert, own)| (*own, *bert)))
    }
}

/// A tensor's name with the words of a layer changed: `before` is what stands before the layer's number,
/// then and now.
fn translated(
    name: &str,
    before: (&str, &str),
    mut words: impl Iterator<Item = (&'static str, &'static str)>,
) -> String {
    let parts = || {
        let (layer, rest) = name.strip_prefix(before.0)?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        Some((layer, part, kind))
    };
    let Some((layer, part, kind)) = parts() else { return name.into() };
    let part = words.find(|(from, _)| *from == part).map_or(part, |(_, to)| to);
    format!("{}{layer}.{part}.{kind}", before.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for kind in EncoderKind::ALL {
            assert_eq!(EncoderKind::named(kind.model_type()), Some(kind));
            for (name, _) in crate::nn::BertShape::original(20, 8, 2, 2).of(kind).tensors() {
                let stored = kind.stored(&name);
                assert_eq!(kind.plain(&stored), name);
                let within = format!("{}.{stored}", kind.model_type());
                assert_eq!(kind.plain(&within), name);
            }
        }
        let name = "encoder.layer.11.attention.self.query.weight";
        let stored = |kind: EncoderKind| kind.stored(name);
        assert_eq!(stored(EncoderKind::Roberta), name);
        assert_eq!(stored(EncoderKind::DistilBert), "transformer.layer.11.attention.q_lin.weight");
        assert_eq!(stored(EncoderKind::Mpnet), "encoder.layer.11.attention.attn.q.weight");
        let of = |kind: EncoderKind, name: &str| kind.plain(name);
        assert_eq!(
            of(EncoderKind::Bert, "bert.embeddings.LayerNorm.gamma"),
            "embeddings.LayerNorm.weight"
        );
        assert_eq!(of(EncoderKind::Mpnet, "lm_head.bias"), "lm_head.bias");
        let bias = "encoder.relative_attention_bias.weight";
        assert_eq!(of(EncoderKind::Mpnet, bias), bias);
    }
}
