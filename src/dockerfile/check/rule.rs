//! The rules by name.
#![forbid(unsafe_code)]

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal, $page:literal;)*) => {
        /// A rule of `docker build --check`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            pub(super) const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name, as in `# check=skip=NAME`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            fn page(self) -> &'static str {
                match self {
                    $(Self::$rule => $page,)*
                }
            }
        }
    };
}

rules! {
    /// A stage's name is not in lowercase.
    StageNameCasing = "StageNameCasing", "stage-name-casing";
    /// AS is not in the case of FROM.
    FromAsCasing = "FromAsCasing", "from-as-casing";
    /// An empty line is amid an instruction.
    NoEmptyContinuation = "NoEmptyContinuation", "no-empty-continuation";
    /// A keyword is not in the case of most.
    ConsistentInstructionCasing = "ConsistentInstructionCasing", "consistent-instruction-casing";
    /// Two stages have one name.
    DuplicateStageName = "DuplicateStageName", "duplicate-stage-name";
    /// A stage is called `scratch` or `context`.
    ReservedStageName = "ReservedStageName", "reserved-stage-name";
    /// CMD or ENTRYPOINT is in shell form, and no SHELL was chosen.
    JsonArgsRecommended = "JSONArgsRecommended", "json-args-recommended";
    /// MAINTAINER is used.
    MaintainerDeprecated = "MaintainerDeprecated", "maintainer-deprecated";
    /// FROM has a variable that no ARG before it has.
    UndefinedArgInFrom = "UndefinedArgInFrom", "undefined-arg-in-from";
    /// The first WORKDIR is not absolute.
    WorkdirRelativePath = "WorkdirRelativePath", "workdir-relative-path";
    /// A variable is used that nothing defines.
    UndefinedVar = "UndefinedVar", "undefined-var";
    /// CMD, ENTRYPOINT or HEALTHCHECK is there twice in a stage.
    MultipleInstructionsDisallowed = "MultipleInstructionsDisallowed", "multiple-instructions-disallowed";
    /// ENV or LABEL without `=`.
    LegacyKeyValueFormat = "LegacyKeyValueFormat", "legacy-key-value-format";
    /// `FROM --platform=$TARGETPLATFORM`, which is the default.
    RedundantTargetPlatform = "RedundantTargetPlatform", "redundant-target-platform";
    /// The name of an ARG or ENV says that it is secret.
    SecretsUsedInArgOrEnv = "SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env";
    /// With the defaults of ARGs, FROM has no image's name.
    InvalidDefaultArgInFrom = "InvalidDefaultArgInFrom", "invalid-default-arg-in-from";
    /// `FROM --platform` without a variable.
    FromPlatformFlagConstDisallowed = "FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed";
    /// COPY or ADD of what `.dockerignore` leaves out.
    CopyIgnoredFile = "CopyIgnoredFile", "copy-ignored-file";
    /// Experimental: a comment before ARG or FROM does not begin with the name.
    InvalidDefinitionDescription = "InvalidDefinitionDescription", "invalid-definition-description";
    /// A protocol of EXPOSE is not in lowercase.
    ExposeProtoCasing = "ExposeProtoCasing", "expose-proto-casing";
    /// EXPOSE with an address or a host's port.
    ExposeInvalidFormat = "ExposeInvalidFormat", "expose-invalid-format";
}

impl Rule {
    /// Where docker explains it.
    pub fn url(self) -> String {
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.page())
    }

    pub(super) fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}
