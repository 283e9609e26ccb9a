import { ServiceError } from "@grpc/grpc-js";
import { GoogleError } from "google-gax";

export function isServiceError(error: unknown): error is ServiceError {
    return error instanceof Error && "code" in error && "metadata" in error;
}

/** What the boundary says beside the code: its reason, and whether another key is safe. */
export function errorInfo(error: ServiceError): { reason: string; metadata: Record<string, string> } {
    const { metadata } = error;
    const decoded = GoogleError.parseGRPCStatusDetails(Object.assign(new GoogleError(), { metadata }));
    return { reason: decoded.reason ?? "", metadata: decoded.errorInfoMetadata ?? {} };
}
