//! What to do where a broker does not know somebody or finds a right missing. Operations have the names that Kafka's own tools give them. Pure.

use rdkafka::error::RDKafkaErrorCode;

/// What to do, as the end of a sentence; empty where it is not about rights.
pub(super) fn advice(code: RDKafkaErrorCode) -> &'static str {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "; grant this user `Describe` and `Read` on source topics, `Describe` and `Write` on sinks"
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => "; grant this user `Read` on the group",
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            "; grant this user `Describe` and `Write` on all transactional ids that begin with the group's name"
        }
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            "; check `sasl.mechanism`, `sasl.username` and `sasl.password` in [kafka]"
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => "; grant this user `IdempotentWrite` on the cluster",
        _ => "",
    }
}

/// Whether waiting does not help: who this is, or whom it trusts, has to be changed by somebody.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed
    )
}
