"""Language models of providers' APIs; each module is one implementation of `LanguageModel`."""
