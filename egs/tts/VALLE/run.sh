#!/bin/sh
# Runs a stage of the recipe: a corpus from recordings (0), features (1), training (2), inference (3), evaluation (4),
# web page (5). --help explains the flags; the program of the stage checks them.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../../.." && pwd)

usage() {
    cat <<'HELP'
usage: sh egs/tts/VALLE/run.sh --stage 0|1|2|3|4|5 [flags]

  --stage 0|1|2|3|4|5, -s   0: a corpus from recordings, 1: features, 2: training, 3: inference, 4: evaluation,
                            5: web page and HTTP API
  --config FILE, -c         settings (default egs/tts/VALLE/exp_config.json); in stages 3 and 4: take its infer section;
                            in stage 5: list the experiments of its log_dir
  --gpu "0"                 GPUs to use, as CUDA_VISIBLE_DEVICES; "0,1,2,3" trains on four; an error if CUDA cannot be
                            used. Without the flag: one GPU, or the CPU if there is none
  --set KEY=VALUE           override a setting, such as train.batch_size=8; may be repeated
  --help, -h                this text

Stage 0, a corpus from recordings:
  --audio_dir DIR           folder with the recordings, of any length and format; a folder in it is a speaker
  --output_dir DIR          folder of the corpus, which stage 1 reads as custom; report.html there says what was left
                            out and why. The same command continues after a stop
  --num_workers N           processes that cut recordings, in addition to the one that recognizes words
  --asr whisper|hubert|none
                            speech recognizer that finds the texts (default whisper, which runs through faster-whisper
                            if it is installed, else transformers); none: use the texts that are there, in .txt or .lab
                            files of the same names or in a table, as in a custom corpus
  --asr_model DIR           folder, or name on the hub, of another model of that kind
  --language CODE           language of all recordings (default: whisper detects it)
  --speaker_model PATH      for recordings that lie in no folders, whose speakers are told apart by their voices: ge2e
                            (default), which downloads a GE2E encoder once (17 MB), the file of such an encoder, or the
                            folder, or name on the hub, of a model with x-vectors
  --dnsmos_dir DIR          folder with DNSMOS's two networks, to leave out what sounds bad

Stage 1, features:
  --num_workers N           processes that read audio and phonemize, in addition to the one that runs the codec
  --show_text TEXT          only print how TEXT is read: normalized, and in phones; needs no corpus
  --infer_expt_dir DIR      with --show_text: as this experiment reads it; DIR may be hub:USER/MODEL
  --check_codec CLIP        only encode and decode this speech, and print whether the codec's result is sane

Stage 2, training, into <log_dir>/NAME:
  --name NAME, -n           experiment
  --model_train_stage 1|2   1: the AR model, 2: the NAR model (0: both at once)
  --ar_model_ckpt_dir DIR   for 2: the trained AR model (experiment, its checkpoint folder, or one checkpoint)
  --resume true             resume from the latest checkpoint of NAME
  --resume_from_ckpt_path DIR
                            resume from this checkpoint instead, of NAME or of another experiment
  --resume_type resume|finetune
                            resume (default): restore everything; finetune: take the weights, start at step 0

Stage 3, inference:
  --infer_expt_dir DIR      experiment of the NAR model, or hub:USER/MODEL[@REVISION]
  --infer_output_dir DIR    output folder (default <infer_expt_dir>/result; of a hub's model USER--MODEL/result)
  --infer_mode single|batch
  --infer_text TEXT         single: the text to synthesize; [pause 0.5s] in it is a silence
  --infer_text_file FILE    single: a file with a text of any length instead; the same command continues after a stop
  --infer_text_prompt TEXT  single: the text of the prompt
  --infer_audio_prompt FILE single: the prompt, about 3 seconds of the voice
  --infer_voice NAME        a voice that bins/voices.py saved, in place of the prompt and its text
  --test_list_file FILE     batch: a list of text|text_prompt|audio_prompt lines (also --infer_test_list_file)
  --infer_language CODE     language of texts that do not begin with one, as in "[language zh] ...", in an experiment
                            with several (default: by script)
  --infer_prompt_language CODE
                            language of the prompts' texts (the same)
  --top_k K                 sample among the K likeliest codes; 0: all, 1: always the likeliest
  --top_p P                 sample among the likeliest codes whose probabilities sum up to P
  --temperature T           below 1: safer, above 1: more varied
  --seed N                  the same seed gives the same speech
  --speed S                 0.5 to 2: slower or faster speech of the same pitch
  --loudness_lufs L         loudness of the speech in LUFS, such as -23 (default: as it is synthesized)
  --continual               keep the first seconds of the prompt and synthesize the rest of its own text
  --copysyn                 also write each prompt after encoding and decoding with the codec
  --subtitles srt|vtt       also write subtitles beside each output

Stage 4, evaluation, into report.html and metrics.json:
  --infer_expt_dir DIR      experiment, or hub:USER/MODEL, to measure; may be repeated to compare several
  --audio_dir DIR           output folder of stage 3 with the same list, to measure; may be repeated
  --test_list_file FILE     text|text_prompt|audio_prompt[|reference_audio] lines (also --infer_test_list_file)
  --infer_voice NAME        a saved voice in place of the prompts of the list
  --eval_output_dir DIR     output folder (default <infer_expt_dir>/evaluation)
  --continual               the list is for continuations: the first seconds are the prompt
  --asr pocketsphinx|whisper|hubert|none
                            speech recognizer for word and character error rates (default pocketsphinx, which needs no
                            download); whisper runs through faster-whisper if it is installed, else transformers
  --asr_model DIR           folder, or name on the hub, of another model of that kind; for whisper in the format of
                            faster-whisper (CTranslate2) or of transformers
  --speaker_model PATH      speaker model: ge2e, which downloads a GE2E encoder once (17 MB), the file of such an
                            encoder or of UniSpeech's WavLM, or the folder, or name on the hub, of a model with x-vectors
  --dnsmos_dir DIR          folder with DNSMOS's two networks
  --utmos FILE              file of UTMOS's strong learner, as SpeechMOS has it
  --normalizer whisper|seed-tts-eval
                            what of the texts is compared (default: seed-tts-eval for lists of seed-tts-eval and
                            librispeech-pc, else whisper)
  --language CODE           language of the texts, for normalizing words and for whisper (default: that of a published
                            list, then that of the first experiment; en-us with --audio_dir alone)
  --num_report_texts N      how many of the worst texts have audio in the report (default 50)
  --build_test_lists librispeech|libritts|vctk|seed-tts-eval|librispeech-pc
                            only write the usual test lists of the config's corpus, or of --test_set, to
                            --eval_output_dir
  --test_set PATH           published files of seed-tts-eval (a folder with en and zh in it) or of librispeech-pc
                            (test-clean.json, F5-TTS's list, or a folder with them)

Stage 5, web page and HTTP API:
  --infer_expt_dir DIR      experiment of the NAR model, or hub:USER/MODEL, that is selected at first
  --log_dir DIR             parent of the experiments to choose from (default: log_dir of the config)
  --host ADDRESS            address to listen on (default 127.0.0.1: this machine only; 0.0.0.0: the network)
  --port N                  port to listen on (default 7860)
  --infer_voice NAME        a saved voice for requests that name none
  --api_key KEY             key that clients of the API, and users of the page as a password, must give (default: the
                            variable VALLET_API_KEY, if it is set)
  --max_characters N        longest text, on the page and in the API (default 4096)
  --max_waiting N           requests that may be in the queue before the API refuses more (default 32)
  --max_seconds S           longest time of a request to the API (default 600)
  --drain_seconds S         how long SIGTERM lets requests be finished (default 60)
HELP
}

fail() {
    echo "run.sh: $1; --help lists the flags" >&2
    exit 2
}

# Take --stage and --gpu out of the arguments; pass all others to the stage's program.
stage=''
gpu=''
gpu_given=false
count=$#
while [ "$count" -gt 0 ]; do
    flag=$1
    shift
    count=$((count - 1))
    case $flag in
    --help | -h)
        usage
        exit 0
        ;;
    --stage=*) stage=${flag#*=} ;;
    --gpu=*)
        gpu=${flag#*=}
        gpu_given=true
        ;;
    --stage | -s | --gpu)
        [ "$count" -gt 0 ] || fail "$flag needs a value"
        case $1 in -*) fail "$flag needs a value, not $1" ;; esac
        if [ "$flag" = --gpu ]; then
            gpu=$1
            gpu_given=true
        else
            stage=$1
        fi
        shift
        count=$((count - 1))
        ;;
    *) set -- "$@" "$flag" ;;
    esac
done

case $stage in
0) program=build_corpus ;;
1) program=preprocess ;;
2) program=train ;;
3) program=inference ;;
4) program=evaluate ;;
5) program=webui ;;
'') fail "--stage is needed" ;;
*) fail "--stage takes 0 to 5, not $stage" ;;
esac

# Use the active environment if the project is installed in it (a bare conda base is active, too), else that of make.
# These are the packages that every stage imports: others, such as encodec and phonemizer, may have been removed.
python=''
lacks=''
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    lacks=$(python -c 'from importlib.util import find_spec
needed = "json5", "numpy", "pydantic", "safetensors", "soundfile", "torch", "torchaudio", "tqdm"
print(*[name for name in needed if find_spec(name) is None])' 2>/dev/null) || lacks=Python
    [ -n "$lacks" ] || python=python
fi
if [ -z "$python" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
    [ -z "$lacks" ] || echo "run.sh: using $root/.venv, as the active environment has no $lacks" >&2
elif [ -z "$python" ]; then
    [ -z "$lacks" ] || echo "run.sh: the active environment has no $lacks" >&2
    echo "run.sh: no environment; run 'make install' in $root, or activate one that has the project installed" >&2
    exit 1
fi

if [ "$gpu_given" = true ]; then
    CUDA_VISIBLE_DEVICES=$gpu
    # The programs fail without the GPUs in VALLET_GPU. CUDA_VISIBLE_DEVICES alone may have been set by a cluster.
    VALLET_GPU=$gpu
    export CUDA_VISIBLE_DEVICES VALLET_GPU
else
    unset VALLET_GPU
fi
# Busy-waiting OpenMP threads would take the cores from the DataLoader workers: training gets many times slower. A short
# spin remains, as decoding runs many small operations, and sleeping between them costs more.
: "${OMP_WAIT_POLICY:=PASSIVE}" "${GOMP_SPINCOUNT:=10000}"
export OMP_WAIT_POLICY GOMP_SPINCOUNT
# Keep freed memory in the process: the codec reuses it, and returning it to the system doubles the codec's time.
if [ "$stage" != 2 ]; then
    : "${MALLOC_MMAP_THRESHOLD_:=1073741824}" "${MALLOC_TRIM_THRESHOLD_:=4294967296}"
    export MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

# Start one process per GPU. If fewer GPUs are usable, start only one process, which reports it.
case $stage$gpu in
[012]*,*)
    processes=$("$python" -c 'import os, torch
asked = [name for name in os.environ["VALLET_GPU"].split(",") if name.strip() not in ("", "-1")]
print(len(asked) if torch.cuda.device_count() >= len(asked) else 0)')
    if [ "$processes" -gt 1 ]; then
        exec "$python" -m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no \
            --dynamo_backend no --num_processes "$processes" --main_process_port 0 "$root/bins/$program.py" "$@"
    fi
    ;;
esac
# Run a file, not -m, which would import folders with our names from the caller's folder.
exec "$python" "$root/bins/$program.py" "$@"
