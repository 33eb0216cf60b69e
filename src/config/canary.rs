//! How new versions meet people: on trial first, and watched afterwards. Bounds are checked here.

use clap::Args;

use crate::domain::trial::{Share, Terms};

/// How a version that passed the gate comes to answer everybody.
#[derive(Clone, Debug, Args)]
pub struct Canary {
    /// Share of the people that such a version answers first, while what they say of it is held against what the others say; 0 makes it
    /// live at once
    #[arg(long, env = "ULM_CANARY_SHARE", value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub canary_share: f64,
    /// Raters of such a version after whom it answers everybody, if they do not rate it worse
    #[arg(long, env = "ULM_CANARY_VOTES", value_name = "RATERS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub canary_votes: u32,
    /// Hours after which it does, however few have rated it
    #[arg(long, env = "ULM_CANARY_HOURS", value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub canary_hours: u32,
    /// Take a live version back when it is rated worse than the one before it, unless a person made it live [default: as `--learn`]
    #[arg(long, env = "ULM_WATCH", value_name = "YES", num_args = 0..=1, default_missing_value = "true")]
    pub watch: Option<bool>,
}

impl Canary {
    /// How versions are tried; none where they become live at once.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        Share::new(self.canary_share).map(|share| self.terms_with(share))
    }

    /// The same with a share that somebody names.
    #[must_use]
    pub fn terms_with(&self, share: Share) -> Terms {
        Terms { share, votes: self.canary_votes, time_ms: 3_600_000 * i64::from(self.canary_hours) }
    }
}

/// 0, or a share of the people that is neither nobody nor everybody.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share == 0.0 || Share::new(share).is_some() => Ok(share),
        _ => Err("must be 0, or a share above 0 and below 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};

    fn canary(options: &[&str]) -> Result<super::Canary, clap::Error> {
        let cli = Cli::try_parse_from(["ulm", "serve"].iter().chain(options))?;
        let Some(Command::Serve(serve)) = cli.command else { panic!("not the serve command") };
        Ok(serve.learning.canary)
    }

    #[test]
    fn a_tenth_is_the_default_and_nothing_is_none() {
        let usual = canary(&[]).unwrap();
        let terms = usual.terms().unwrap();
        assert_eq!((terms.share.get(), terms.votes, terms.time_ms), (0.1, 200, 24 * 3_600_000));
        assert_eq!(usual.watch, None);
        assert_eq!(canary(&["--canary-share", "0"]).unwrap().terms(), None);
        assert_eq!(canary(&["--watch"]).unwrap().watch, Some(true));
        assert_eq!(canary(&["--watch", "false"]).unwrap().watch, Some(false));
        for bad in ["1", "-0.1", "NaN", "2", "x"] {
            assert!(canary(&[&format!("--canary-share={bad}")]).is_err(), "{bad}");
        }
    }
}
